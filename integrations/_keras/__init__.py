"""Behind the tracker for Keras."""
