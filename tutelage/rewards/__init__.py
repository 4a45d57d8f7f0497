"""Where a reward number comes from: the game, a written function, a learned model."""
