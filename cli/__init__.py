"""The command line: `identity-factory`, or `python -m cli`."""
