"""What serving costs, in ratios measured within one run: `python -m benchmarks`. See README.md beside this file."""
