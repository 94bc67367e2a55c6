"""Whether a script resumes exactly, proved by killing it."""
