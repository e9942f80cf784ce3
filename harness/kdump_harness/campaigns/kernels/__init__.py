"""Kernel drills of many kernels, makedumpfile versions and memory layouts."""
