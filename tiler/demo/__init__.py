"""A small world of our own: an invented landscape, its true labels, and a network trained on it."""
