"""The smallest crashkernel= reservation that dumps."""
