"""What an export takes out of a checkpoint: the tree of a section, whose tensors are read one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_tracker.errors import CheckpointNotFound, InvalidOption, MissingExtra
from ckpt_tracker.files import manifest as manifests
from ckpt_tracker.records import TensorEntry, TensorSpec
from ckpt_tracker.selection import nearest
from ckpt_tracker.state.tree import decode

if TYPE_CHECKING:
    from ckpt_tracker.checkpoint import Checkpoint
    from ckpt_tracker.state.tensors import Bytes
    from ckpt_tracker.store import Store

ALL = "all"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in the store."""

    index: int
    entry: TensorEntry

    @property
    def spec(self) -> TensorSpec:
        """What it is."""
        return self.entry.spec


class Source:
    """A section of a checkpoint, or all of it. Keeps count of what was written, and of what could not be."""

    def __init__(
        self, store: Store, checkpoint: Checkpoint, section: str, progress: Callable[[int, int], None]
    ) -> None:
        self.store = store
        self.checkpoint = checkpoint
        self.section = section
        self.written = 0
        self.left_out: list[str] = []
        self._progress = progress
        self._done = self._total = 0
        self._manifest = manifests.read(store.layout.manifests(checkpoint.run), checkpoint.version, run=checkpoint.run)
        self._names = self._manifest.tensor_names()
        sections = self._manifest.sections
        if section not in sections and section != ALL:
            hint = nearest(section, [*sections, ALL])
            raise CheckpointNotFound(f"{checkpoint.ref} has no section {section!r}{hint}")

    def tree(self) -> Any:
        """The section with a StoredTensor for each tensor; of `all` a dict of the sections."""
        sections = self._manifest.sections
        if self.section in sections:
            return self._decode(sections[self.section])
        return {name: self._decode(each) for name, each in sections.items()}

    def section_tree(self, name: str) -> Any:
        """Another section, or None where the checkpoint has none of that name."""
        return self._decode(self._manifest.sections.get(name))

    def tensors(self, holds: Callable[[TensorSpec], bool]) -> dict[str, StoredTensor]:
        """The section's tensors by flat names (`G.fc.weight`); what is no tensor goes to `left_out`.

        Raises InvalidOption where there are none, where two would be called the same, and for a type that the format
        does not hold: a model is not exported in part.
        """
        ref = self.checkpoint.ref
        found: dict[str, StoredTensor] = {}
        for path, leaf in flatten(self.tree(), ""):
            name = path or self.section
            if not isinstance(leaf, StoredTensor):
                self.left_out.append(name)
            elif not holds(leaf.spec):
                raise InvalidOption(
                    f"tensor {name} of {ref} is {leaf.spec.dtype}, which this format can't hold: use .pt"
                )
            elif name in found:
                raise InvalidOption(f"{ref} has two tensors that would be called {name!r}: use .pt")
            else:
                found[name] = leaf
        if not found:
            raise InvalidOption(f"section {self.section!r} of {ref} has no tensors: choose another with --section")
        self.expect(found.values())
        return found

    def expect(self, tensors: Iterable[StoredTensor]) -> None:
        """Tells the progress bar how much is to be read."""
        self._total = sum(each.spec.nbytes for each in tensors)

    def read(self, tensor: StoredTensor) -> Bytes:
        """The tensor's bytes, checked against its hash. Raises Damaged, CheckpointGone."""
        data = self.store.objects.read(tensor.entry, ref=self.checkpoint.ref, name=self._names[tensor.index])
        self.written += 1
        self._done += len(data)
        self._progress(self._done, max(self._done, self._total))
        return data

    def _decode(self, skeleton: Any) -> Any:
        try:
            return decode(skeleton, lambda index: StoredTensor(index, self._manifest.tensors[index]))
        except MissingExtra:
            raise
        except ImportError as error:
            raise MissingExtra(
                f"section {self.section!r} holds values of a package that is not installed: {error}"
            ) from error


def flatten(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every leaf of nested dicts, lists and tuples, with the keys on its way joined by dots."""
    above = f"{path}." if path else ""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flatten(value, f"{above}{key}")
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from flatten(value, f"{above}{index}")
    else:
        yield path, tree
