"""Where guests' disks come from, and the cache of them."""
