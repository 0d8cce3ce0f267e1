"""`python -m tiler.cli`: the same as `tiler`."""

from tiler.cli import app

app()
