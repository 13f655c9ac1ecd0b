"""Tasks of networks: loss, predictions and metrics."""
