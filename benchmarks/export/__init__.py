"""Whole scenes: our export against a bare forward loop and against others. See README.md one folder up."""
