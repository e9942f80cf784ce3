"""The messages between clients, scheduler and workers of a fleet."""
