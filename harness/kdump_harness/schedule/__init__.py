"""Drills by the clock: a systemd timer, what it runs, and who hears of a change."""
