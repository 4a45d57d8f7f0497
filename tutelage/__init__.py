"""tutelage: reinforcement learning from rewards, from one another and from people."""

__version__ = "0.1.0"
