"""A small world of our own: an invented landscape, its true labels, and a network trained on it."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
