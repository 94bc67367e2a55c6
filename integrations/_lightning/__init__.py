"""Behind the tracker for Lightning."""
