"""The differences between distributions: families, packages, kernels, configuration files."""
