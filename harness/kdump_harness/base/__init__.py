"""What every layer uses: errors, waits, tables, evidence, progress."""
