"""One crash, judged."""
