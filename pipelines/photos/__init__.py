"""Photos on their way through `prepare`: where they are, which are new, what workers do to them, samples."""
