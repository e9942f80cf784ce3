"""Kernel drills: a kernel that is booted directly with a small userland, crashed, and judged."""
