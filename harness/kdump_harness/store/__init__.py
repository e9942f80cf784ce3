"""The central store: dumps taken in safely, triaged, compared with one another, bundled, kept as long as wanted."""
