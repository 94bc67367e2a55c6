"""The runner: each part in a process of its own, then one report.

python -m benchmarks                 # all parts; writes RESULTS.md and the plots
python -m benchmarks saving --quick  # one part, quickly; prints only
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

from benchmarks import machine
from benchmarks.report import Findings, Settings

PARTS = ("small_saves", "fitting", "saving", "restoring", "memory", "index_scale", "compaction")
"""Modules of this folder, in the order of the report: first those that many deleted files would make slower.

One that is not there yet is left out, and said to be.
"""
HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"


def main() -> int:
    """Measures what is asked for; 1 where a part failed."""
    options = _options()
    if options.into is not None:
        _measure(options.parts[0], Settings(options.folder, quick=options.quick), options.into)
        return 0
    parts = options.parts or [name for name in PARTS if _exists(name)]
    for name in PARTS:
        if not options.parts and not _exists(name):
            print(f"benchmarks/{name}.py is not there: left out", file=sys.stderr)
    found, failed = _run_all(parts, options)
    sections = [machine.table(options.folder).markdown()]
    sections += [f"## {_part(name).TITLE}\n\n" + _body(name, each) for name, each in found.items()]
    text = "# What a checkpoint costs\n\nWritten by `make bench`; see README.md here for how it is measured.\n\n"
    text += "\n".join(sections)
    print(text)
    if not options.parts and not options.quick and not failed:
        for name, each in found.items():
            _plot(name, each)
        RESULTS.write_text(text)
    for name in failed:
        print(f"{name} failed", file=sys.stderr)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all, unless named")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller sizes; writes no results")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where stores are made")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run_all(parts: list[str], options: argparse.Namespace) -> tuple[dict[str, Findings], list[str]]:
    found: dict[str, Findings] = {}
    failed = []
    for name in parts:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="ckpt-bench-", dir=options.folder) as scratch:
            into = Path(scratch) / "findings.json"
            folder = Path(scratch) / "work"
            folder.mkdir()
            command = [sys.executable, "-m", "benchmarks", name, "--folder", str(folder), "--into", str(into)]
            ended = subprocess.run([*command, *(["--quick"] if options.quick else [])], check=False, cwd=HERE.parent)
            if ended.returncode:
                failed.append(name)
            else:
                found[name] = Findings.read(into)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return found, failed


def _measure(name: str, settings: Settings, into: Path) -> None:
    if getattr(_part(name), "ONE_CORE", False) and hasattr(os, "sched_setaffinity"):
        # before torch and the like are imported, which make as many threads as there are cores
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    _part(name).measure(settings).write(into)


def _body(name: str, found: Findings) -> str:
    picture = f"\n![{_part(name).TITLE}]({name}.png)\n" if hasattr(_part(name), "plot") else ""
    return "\n".join(table.markdown() for table in found.tables) + picture


def _plot(name: str, found: Findings) -> None:
    if hasattr(_part(name), "plot"):
        _part(name).plot(found.data, HERE / f"{name}.png")


def _exists(name: str) -> bool:
    return importlib.util.find_spec(f"benchmarks.{name}") is not None


def _part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


if __name__ == "__main__":
    sys.exit(main())
