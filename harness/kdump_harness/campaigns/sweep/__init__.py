"""Size of the dump by dump level and compression."""
