"""Criteria: what says which checkpoint is best. A metric's name, or an expression over metrics.

    val_loss                                    0.7*val_acc - 0.3*log(size_mb)
    val_f1 where val_loss < 0.4                 `val/f1` where epoch >= 10 and not lr > 0.1

    criterion  = expression ["where" condition]
    condition  = comparison, joined by "and", "or", "not" and parentheses
    comparison = expression, then one or more of: (< | <= | > | >= | == | !=) expression
    expression = numbers and names, joined by + - * / ** and parentheses, and functions of them:
                 abs exp log log10 log2 max min sqrt
    name       = a metric; or epoch, step, version, size_mb, stored_mb of the checkpoint itself,
                 unless there is a metric of that name

A text that is the name of a metric means that metric, whatever characters are in it. Inside an expression a name such
as `val/loss` or `train-loss` means the metric too, where there is one; any other name that is more than letters,
digits, `_` and dots stands in backquotes.
"""

from ckpt_tracker.criteria.expression import Criterion
from ckpt_tracker.criteria.parsing import parse, quoted
from ckpt_tracker.criteria.ranking import Score, Scorer, Tie, matching, ranking, winner

__all__ = ["Criterion", "Score", "Scorer", "Tie", "matching", "parse", "quoted", "ranking", "winner"]
