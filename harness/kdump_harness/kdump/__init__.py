"""kdump inside a guest: the service, its dump target, the crash, and the capture kernel."""
