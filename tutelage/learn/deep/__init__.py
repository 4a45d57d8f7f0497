"""Deep reinforcement learning from rewards."""
