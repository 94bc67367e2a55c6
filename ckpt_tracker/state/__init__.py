"""A training's state as a tree of JSON and the bytes of its tensors, and back."""
