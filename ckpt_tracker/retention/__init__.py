"""Retention: what to keep, and what becomes of the rest.

    Last(2) | Best(3, "val_loss", mode="min")                       "last:2 best:3:val_loss:min"
    Last(2) | Best(5).weights_only()                                "last:2 best:5:weights"
    (Last(9) | Every(epochs=10)).capped("20GB")                     "last:9 every:10epochs cap:20GB"
    Last(2) | Within(days=7, one_per="hour").capped("5GB")          "last:2 (within:7days:hour cap:5GB)"

A checkpoint is kept when any policy of the union keeps it, or when it has a tag, or is pinned.
"""

from ckpt_tracker.retention.combining import Retention, Union
from ckpt_tracker.retention.deciding import checked, decide, parse
from ckpt_tracker.retention.policies import Best, Every, Last, Tagged, Within

__all__ = ["Best", "Every", "Last", "Retention", "Tagged", "Union", "Within", "checked", "decide", "parse"]
