"""What pictures are worth: the paper's measures as formulas, and the networks that they need."""
