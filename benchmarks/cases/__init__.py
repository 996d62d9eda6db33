"""Real inputs, as people report them: each made anew, given to the product, and compared with what a user expects."""
