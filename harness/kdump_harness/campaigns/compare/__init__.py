"""The same drills before and after a change."""
