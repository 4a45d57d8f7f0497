"""What was experienced: transitions, segments, replay, and the rollout, the only code that steps a game to learn."""
