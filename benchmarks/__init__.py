"""Measurements. Each file here is a script: `python -m benchmarks.train_identity --help`."""
