"""From a map's z/x/y to a picture of a model's prediction."""

__version__ = "0.1.0"
