"""The file formats of a vmcore: ELF, kdump-compressed, flattened, and their tables and notes."""
