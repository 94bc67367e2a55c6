"""Behind the trackers of hand-written loops."""
