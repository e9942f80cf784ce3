"""One module per verb: its options, its handler, and the table that it prints.

The options are needed for each --help, so a module imports its heavy libraries in the functions that use them.
"""
