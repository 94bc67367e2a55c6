"""`python -m ckpt_tracker`: the same as `ckpt`."""

from ckpt_tracker.cli import main

main()
