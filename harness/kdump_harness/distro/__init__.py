"""What distributions differ in: families, packages, kernels, configuration files."""
