"""Evidence bundles for bug reports: collected, and redacted, from a dump and its host."""
