"""The libvirt connection and the domains on it."""
