"""What a part of the benchmark found: tables for people, and numbers for plots."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How much is measured, and where."""

    folder: Path
    """Scratch space, empty, on the file system that is measured; deleted afterwards."""
    quick: bool = False
    """A look in a minute or two: fewer repetitions, smaller sizes."""

    def repetitions(self, full: int = 5) -> int:
        """How often each thing is measured."""
        return min(full, 2) if self.quick else full


@dataclass(frozen=True)
class Table:
    """Rows under one heading. Cells are text: whoever measures knows how many digits mean something."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table as Markdown, under a heading, with its note below."""
        lines = [f"### {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += map(_line, self.rows)
        return "\n".join([*lines, *(["", self.note] if self.note else []), ""])


@dataclass(frozen=True)
class Findings:
    """What one part found."""

    tables: Sequence[Table]
    data: dict[str, Any] = field(default_factory=dict)
    """Numbers that JSON holds, for the part's plot."""

    def write(self, path: Path) -> None:
        """As JSON, for the runner: each part has a process of its own."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Findings:
        """What `write` wrote."""
        found = json.loads(path.read_text())
        return cls([Table(**each) for each in found["tables"]], found["data"])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
