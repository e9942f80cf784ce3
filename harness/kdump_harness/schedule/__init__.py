"""Scheduled drills: a systemd timer, its service, and a hook for changes."""
