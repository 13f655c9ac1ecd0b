"""NASForge: neural architecture search and hyperparameter search, one space, one loop, here or on a Ray cluster."""

__version__ = "0.1.0"
