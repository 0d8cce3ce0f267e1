"""Whole scenes: from a scene and a model to files."""
