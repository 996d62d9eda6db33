"""The frozen text-to-image model, and the text that the words of an identity are put into."""
