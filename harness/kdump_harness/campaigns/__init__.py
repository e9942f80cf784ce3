"""Campaigns, which make many drills and compare them: sweep, size, compare."""
