"""A face to its two words: the paper's parts, one idea a file, and the loop that learns many at a time."""
