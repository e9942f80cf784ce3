"""The file formats of a vmcore: ELF, kdump-compressed, flattened, and what lies in them."""
