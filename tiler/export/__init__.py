"""Whole scenes: blocks -> part files -> one COG. What an export has done lies in its folder of parts, nowhere else."""
