"""Language models: demonstrations, reward models, and what is learned from them."""
