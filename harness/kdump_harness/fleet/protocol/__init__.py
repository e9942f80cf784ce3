"""What the head of a fleet and its workers say to each other."""
