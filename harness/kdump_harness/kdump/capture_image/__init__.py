"""Foresight of capture kernels that cannot reach root or target: what their initramfs lacks, before the crash."""
