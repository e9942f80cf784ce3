"""One virtual machine on one host: its domain, console, shell and network."""
