"""Marks that say of every picture and clip that leaves: a model made this."""
