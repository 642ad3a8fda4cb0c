"""What runs the operator for real: clusters, the demo, the benchmark."""
