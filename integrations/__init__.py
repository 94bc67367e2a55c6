"""The trackers: one module a framework, imported by whoever uses that framework and nobody else.

This folder ships as `ckpt_tracker.integrations`. Under its bare name, which a script started in
the repository's root can see, every class would exist a second time, so that name is refused.
"""

if __name__ != "ckpt_tracker.integrations":
    raise ImportError(
        f"this package is 'ckpt_tracker.integrations', and was imported as {__name__!r}: write "
        "'from ckpt_tracker.integrations.torch import CheckpointTracker', or another framework's"
    )
