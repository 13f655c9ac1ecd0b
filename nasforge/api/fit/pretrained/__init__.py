"""Networks that were trained on other images: their weights, a linear classifier on their features, fine-tuning."""
