"""What pytest takes besides its own options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update`."""
    parser.addoption("--update", action="store_true", help="write the golden files anew, for you to read in the diff")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compares a text with a file that somebody has read and found right; with `--update` writes the file."""

    def compare(file: Path, text: str) -> None:
        if request.config.getoption("--update"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")

    return compare
