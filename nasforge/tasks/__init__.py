"""What networks are trained for: loss, predictions and metrics."""
