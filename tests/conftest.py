"""What pytest takes besides its own options."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update`."""
    parser.addoption("--update", action="store_true", help="write the golden files anew, for you to read in the diff")


@pytest.fixture(autouse=True)
def own_signal_handlers() -> Iterator[None]:
    """A tracker that a test leaves open keeps its handlers; the next test does not see them."""
    watched = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT] if hasattr(signal, "SIGUSR1") else []
    before = {number: signal.getsignal(number) for number in watched}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compares a text with a file that somebody has read and found right; with `--update` writes the file."""

    def compare(file: Path, text: str) -> None:
        if request.config.getoption("--update"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")

    return compare
