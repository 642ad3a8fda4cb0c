"""Measures the operator on embedded clusters, beside what the control plane alone needs for the same children."""
