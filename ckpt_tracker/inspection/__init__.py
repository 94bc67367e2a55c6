"""Finding and mending what is damaged."""
