"""Commands and files in a guest: over SSH, and over a serial line."""
