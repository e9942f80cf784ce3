"""Many crashes, compared."""
