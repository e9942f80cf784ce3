"""Common to all layers: errors, waits, tables, evidence, progress."""
