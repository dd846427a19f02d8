"""The floor: coloring neurons, and carrying tensors between a network and its base."""
