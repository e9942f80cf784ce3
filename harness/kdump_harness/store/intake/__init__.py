"""Untrusted dumps on their way into the store."""
