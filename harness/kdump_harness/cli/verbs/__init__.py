"""One module per verb: its options, what it does, and its table."""
