"""A host of a fleet that runs drills for others."""
