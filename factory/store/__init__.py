"""The tables under a root: their columns, reading and writing, files for other tools, and erasing a person."""
