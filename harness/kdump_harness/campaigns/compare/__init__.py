"""Comparison of the same drills before and after a change, and bisection of a change."""
