"""Learning from comparisons."""
