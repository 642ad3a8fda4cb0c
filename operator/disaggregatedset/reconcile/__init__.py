"""One set at a time: observe, plan, apply, report."""
