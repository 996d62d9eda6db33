"""The data set, and the trainings of the studio pack's models, from nothing to the finished pack."""
