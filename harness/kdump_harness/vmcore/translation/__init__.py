"""Kernel virtual addresses to physical ones, from VMCOREINFO and the dump's own page tables."""
