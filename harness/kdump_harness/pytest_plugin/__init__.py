"""What pytest sees: options, fixtures, markers, outcomes."""
