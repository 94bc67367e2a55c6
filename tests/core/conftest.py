"""What the core's tests share: a store of their own, Python processes to kill, and an equality that knows NaN."""

from __future__ import annotations

import collections
import dataclasses
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Store, loading


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's default store, cache or working folder."""
    monkeypatch.delenv("CKPT_TRACKER_STORE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's store is."""
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A new store, closed at the end."""
    with Store(path) as made:
        yield made


@pytest.fixture(params=[1, 3], ids=["one thread", "threads"])
def loading_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many threads load, of tensors that are large from their first byte on."""
    monkeypatch.setattr(loading, "_processors", lambda: request.param)
    monkeypatch.setattr(loading, "_LARGE", 1)
    threads: int = request.param
    return threads


class Process:
    """A Python process that runs some code and tells its progress line by line."""

    def __init__(self, code: str, *arguments: object) -> None:
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        """The next line it prints; fails with its errors when it ends instead."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, self.end()[1]
        return line.rstrip("\n")

    def tell(self, text: str) -> None:
        """Sends it a line."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(text + "\n")
        self.popen.stdin.flush()

    def end(self) -> tuple[str, str]:
        """Waits for its end, and returns the rest of what it printed, and its errors."""
        return self.popen.communicate(timeout=60)

    def kill(self) -> None:
        """SIGKILL."""
        self.popen.kill()
        self.end()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts Python processes; those that still run at the end are killed."""
    started: list[Process] = []

    def start_one(code: str, *arguments: object) -> Process:
        started.append(Process(code, *arguments))
        return started[-1]

    yield start_one
    for process in started:
        if process.popen.poll() is None:
            process.kill()
        for stream in (process.popen.stdin, process.popen.stdout, process.popen.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def python(start: Callable[..., Process]) -> Callable[..., str]:
    """Runs code in a Python process of its own to its end, which must be a good one; returns what it printed."""

    def run(code: str, *arguments: object) -> str:
        process = start(code, *arguments)
        output, errors = process.end()
        assert process.popen.returncode == 0, errors
        return output.strip()

    return run


@pytest.fixture(scope="session")
def same() -> Callable[[object, object], bool]:
    """Equal in type, order and every bit; NaN is itself."""
    return _same


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file and folder below a folder, with its bytes."""
    return _contents


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"<folder>"
        for path in sorted(folder.rglob("*"))
    }


def _same(expected: object, actual: object) -> bool:
    if type(expected) is not type(actual):
        return False
    if isinstance(expected, (np.ndarray, np.generic)):
        assert isinstance(actual, (np.ndarray, np.generic))
        return (expected.dtype, expected.shape, expected.tobytes()) == (actual.dtype, actual.shape, actual.tobytes())
    if dataclasses.is_dataclass(expected) or type(expected).__name__ in ("Namespace", "SimpleNamespace"):
        return _same(_attributes(expected), _attributes(actual))
    if isinstance(expected, Mapping):
        assert isinstance(actual, Mapping)
        return _same(_parts(expected), _parts(actual))
    if isinstance(expected, (list, tuple, collections.deque)):
        assert isinstance(actual, (list, tuple, collections.deque))
        return len(expected) == len(actual) and all(map(_same, expected, actual))
    return expected == actual or (expected != expected and actual != actual)


def _attributes(value: object) -> dict[str, object]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return vars(value)


def _parts(mapping: Mapping[object, object]) -> list[object]:
    extras = [getattr(mapping, name, None) for name in ("default_factory", "_metadata")]
    return [*(list(pair) for pair in mapping.items()), extras]
