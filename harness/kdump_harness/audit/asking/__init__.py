"""Questions to real machines: the inventory of hosts, the connection to one, and the commands that read."""
