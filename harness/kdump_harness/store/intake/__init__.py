"""Intake of untrusted dumps: finding, copying, and examining them in a limited process."""
