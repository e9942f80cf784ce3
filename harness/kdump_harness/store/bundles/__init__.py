"""Evidence bundles: what is collected and redacted for a bug report."""
