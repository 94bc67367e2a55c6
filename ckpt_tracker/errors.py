"""All errors of ckpt_tracker, in one tree.

Each also subclasses the builtin that people already catch, and carries the exit code of the command line.

    CkptTrackerError                                    1
    ├── InvalidOption(ValueError)                       2   an argument is wrong, or two don't go together
    ├── StoreNotFound(FileNotFoundError)                3   there is no store at that path
    ├── CheckpointNotFound(LookupError)                 3   nothing matches the reference
    │   └── CheckpointGone                              3   it was there, and was deleted meanwhile
    ├── NotAStore(ValueError)                           4   the folder holds something else
    ├── FormatTooNew(RuntimeError)                      4   written by a later version of ckpt_tracker
    ├── StoreReadOnly(PermissionError)                  4   opened without the right to write
    ├── Damaged(ValueError)                             5   bytes on disk are not what was written
    ├── StoreFull(OSError)                              6   the disk, or its quota, has no room
    ├── SaveFailed(RuntimeError)                        6   a background save did not become durable
    ├── RunBusy(RuntimeError)                           7   another training is writing this run
    ├── UnstorableLeaf(TypeError)                       8   a value that has no form without pickle
    ├── StateMismatch(RuntimeError)                     9   model and checkpoint don't fit together
    ├── MissingExtra(ImportError)                      10   an optional package is not installed
    └── ImportRefused(ValueError)                      14   a foreign file asks for more than tensors and plain values
"""

from typing import ClassVar


class CkptTrackerError(Exception):
    """Anything that ckpt_tracker itself raises."""

    exit_code: ClassVar[int] = 1


class InvalidOption(CkptTrackerError, ValueError):
    """An argument is wrong, or two arguments don't go together."""

    exit_code = 2


class StoreNotFound(CkptTrackerError, FileNotFoundError):
    """There is no store at the path."""

    exit_code = 3


class CheckpointNotFound(CkptTrackerError, LookupError):
    """No run or checkpoint matches the reference; the message names the nearest."""

    exit_code = 3


class CheckpointGone(CheckpointNotFound):
    """The checkpoint existed when it was looked up, and was deleted before it was read."""


class NotAStore(CkptTrackerError, ValueError):
    """The path holds something that ckpt_tracker did not make."""

    exit_code = 4


class FormatTooNew(CkptTrackerError, RuntimeError):
    """A later version of ckpt_tracker wrote this; nothing was changed."""

    exit_code = 4


class StoreReadOnly(CkptTrackerError, PermissionError):
    """The store was opened without the right to write."""

    exit_code = 4


class Damaged(CkptTrackerError, ValueError):
    """Bytes on disk are not the bytes that were written."""

    exit_code = 5


class StoreFull(CkptTrackerError, OSError):
    """No room on the disk or in its quota; `errno` says which. What was durable before is intact."""

    exit_code = 6


class SaveFailed(CkptTrackerError, RuntimeError):
    """A save in the background did not become durable; the cause is chained."""

    exit_code = 6


class RunBusy(CkptTrackerError, RuntimeError):
    """Another training holds the run."""

    exit_code = 7


class UnstorableLeaf(CkptTrackerError, TypeError):
    """A value in the state has no form without pickle; the message gives its path."""

    exit_code = 8


class StateMismatch(CkptTrackerError, RuntimeError):
    """A checkpoint's state does not fit the objects it is to be restored into."""

    exit_code = 9


class MissingExtra(CkptTrackerError, ImportError):
    """An optional package is needed and not installed; the message gives the command."""

    exit_code = 10


class ImportRefused(CkptTrackerError, ValueError):
    """A foreign file can't be read without running what is in it, or with the memory that it may take."""

    exit_code = 14


class CheckpointWarning(UserWarning):
    """Something about checkpoints that the training script can mend; training goes on."""


def add_note(error: BaseException, note: str) -> None:
    """`error.add_note(note)`, which came with Python 3.11."""
    error.__notes__ = [*getattr(error, "__notes__", []), note]
