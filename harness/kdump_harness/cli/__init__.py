"""The command line: its parser, the types and groups of options, and how arguments become plans."""
