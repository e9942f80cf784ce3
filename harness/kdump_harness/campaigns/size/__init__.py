"""Search for the smallest crashkernel= reservation that dumps."""
