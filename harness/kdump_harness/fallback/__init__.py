"""Records of a crash that remain where kdump fails: those of pstore, and the hypervisor's dump of the memory."""
