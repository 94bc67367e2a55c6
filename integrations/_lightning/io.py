"""The doors between Lightning and a store: checkpoint paths that start with `ckpt://`.

`ckpt:///home/me/checkpoints/mnist@v3` names the store too; in `ckpt://mnist@v3` it is the tracker's.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from ckpt_tracker.integrations._lightning.state import EXTRA, to_checkpoint
from ckpt_tracker.store import Store

_PROTOCOL = "ckpt"
_SCHEME = f"{_PROTOCOL}://"


class Address(NamedTuple):
    """What a `ckpt://` path says."""

    store: str | None
    reference: str


def path_of(store: str | os.PathLike[str], reference: str) -> str:
    """The path by which Lightning asks for a checkpoint of a store."""
    return f"{_SCHEME}{os.fspath(store)}/{reference}"


def address_in(path: object) -> Address | None:
    """What a path of ours says, or None for any other path."""
    if not isinstance(path, str) or not path.startswith(_SCHEME):
        return None
    store, _, reference = path.removeprefix(_SCHEME).rpartition("/")
    return Address(store or None, reference)


class StoreIO:
    """A strategy's `checkpoint_io`: our paths go to the tracker, all others to the io that was there before.

    No subclass of Lightning's `CheckpointIO`, so that it serves both packages; nothing asks for one.
    """

    def __init__(
        self,
        inner: Any,
        *,
        save: Callable[[dict[str, Any]], None],
        load: Callable[[Address], dict[str, Any]],
    ) -> None:
        self.inner: Any = inner.inner if isinstance(inner, StoreIO) else inner
        self._save = save
        self._load = load

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *args: Any, **options: Any) -> None:
        """Lightning calls this on the first rank only."""
        if address_in(path) is None:
            self.inner.save_checkpoint(checkpoint, path, *args, **options)
        else:
            self._save(checkpoint)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> Any:
        """Lightning calls this on every rank."""
        address = address_in(path)
        if address is None:
            return self.inner.load_checkpoint(path, *args, **options)
        return self._load(address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def open_paths_as_files() -> None:
    """Lets `Model.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)` read from the store."""
    import fsspec  # type: ignore[import-untyped]

    class StoreFiles(fsspec.AbstractFileSystem):
        protocol = _PROTOCOL

        def _open(self, path: str, mode: str = "rb", **options: Any) -> io.BytesIO:
            import torch

            address = address_in(_SCHEME + path)
            assert address is not None
            with Store(address.store, create=False) as store:
                checkpoint = to_checkpoint(store[address.reference].load(), ref=address.reference)
            del checkpoint[EXTRA]
            file = io.BytesIO()
            torch.save(checkpoint, file)
            file.seek(0)
            return file

    fsspec.register_implementation(_PROTOCOL, StoreFiles, clobber=True)
