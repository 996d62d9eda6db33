"""Where a pack's weights come from, and whether they are complete and fit together."""
