"""What runs the operator: work queue, settings, health, metrics, logging."""
