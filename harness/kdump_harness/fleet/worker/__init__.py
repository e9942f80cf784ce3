"""The worker of a fleet, which runs scenarios and drills on its host."""
