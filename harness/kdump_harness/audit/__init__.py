"""Audit of real machines: their kdump is read over SSH, and judged without a crash."""
