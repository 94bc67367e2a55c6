"""Behind the tracker for the Transformers Trainer."""
