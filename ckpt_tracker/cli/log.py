"""`ckpt log`: what happened to a run's checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import RUN, TAG
from ckpt_tracker.errors import CheckpointNotFound, InvalidOption

if TYPE_CHECKING:
    from ckpt_tracker.history import Entry
    from ckpt_tracker.run import Run


@command(
    examples=["ckpt log", "ckpt log mnist", "ckpt log mnist --tag paper", "ckpt log mnist --tag paper --at 2026-11-01"],
)
@click.argument("run", type=RUN, required=False)
@click.option("--tag", "name", type=TAG, metavar="NAME", help="Only where this tag went.")
@click.option(
    "--at", "moment", metavar="WHEN", help="Where RUN's tags stood then: 2026-11-01, or 2026-11-01T12:30+01:00."
)
def log(run: str | None, name: str | None, moment: str | None, store: str | None, as_json: bool) -> None:
    """Tells what was saved, evicted, removed, restored, tagged and pinned of RUN, or of all runs, by whom and why.

    It comes from the run's events, which are only ever appended. With --at it tells where the tags stood at a moment: a
    day means its beginning, and a time without a zone is meant in this machine's.
    """
    from ckpt_tracker.cli.output import emit_json, note

    with open_store(store) as opened:
        if moment is not None:
            if run is None:
                raise InvalidOption("--at is about the tags of a RUN: name it")
            _print_tags(opened.find_run(run), _parsed(moment), name, as_json=as_json)
            return
        runs = [opened.find_run(run)] if run else opened.runs()
        entries = [entry for each in runs for entry in each.history() if name in (None, entry.details.get("tag"))]
    entries.sort(key=lambda entry: entry.at)
    if as_json:
        emit_json([vars(entry) for entry in entries])
    elif entries:
        _print(entries, one_run=run is not None)
    else:
        note(f"no tag {name!r} was ever given" if name else "nothing has happened yet")


def _parsed(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone()
    except (ValueError, OverflowError) as error:
        raise InvalidOption(f"--at {text}: expected a day or a time such as 2026-11-01T12:30") from error


def _print_tags(run: Run, moment: datetime, name: str | None, *, as_json: bool) -> None:
    from ckpt_tracker.cli.output import emit_json, note
    from ckpt_tracker.selection import nearest

    tags = {tag: version for tag, version in run.tags_at(moment).items() if name in (None, tag)}
    if as_json:
        emit_json({"run": run.name, "at": moment, "tags": tags})
        return
    if name is not None and not tags:
        ever = {entry.details["tag"] for entry in run.history() if "tag" in entry.details}
        hint = "" if name in ever else nearest(name, ever)
        raise CheckpointNotFound(f"no checkpoint of {run.name!r} was {name!r} then{hint}")
    if not tags:
        note(f"run {run.name} had no tags then")
    for tag, version in sorted(tags.items()):
        click.echo(f"{human.printable(tag)} was {run.name}@v{version}")


def _print(entries: Sequence[Entry], *, one_run: bool) -> None:
    from ckpt_tracker.cli.tables import Column, print_rows
    from ckpt_tracker.cli.trash import who

    columns: list[Column[Entry]] = [
        Column("at (UTC)", lambda each: f"{each.at:%Y-%m-%d %H:%M:%S}", text=True, spare=1),
        Column("run", lambda each: each.run, text=True),
        Column("event", lambda each: each.event, text=True),
        Column("checkpoints", lambda each: _versions(each.versions), text=True),
        Column("by", lambda each: who(each.by, each.user), text=True, spare=3),
        Column("details", lambda each: human.printable(_details(each.details)), text=True, spare=2, wrap=True),
    ]
    print_rows([each for each in columns if not (one_run and each.header == "run")], entries)


def _versions(versions: Sequence[int]) -> str:
    some = ", ".join(f"v{version}" for version in versions[:4])
    return f"{some}, … ({len(versions)})" if len(versions) > 4 else some or human.NONE


def _details(details: dict[str, Any] | Any) -> str:
    words = [f"{name} {details[name]}" for name in ("epoch", "step") if details.get(name) is not None]
    words += [f"{name}={human.number(value)}" for name, value in dict(details.get("metrics", {})).items()]
    if "tag" in details:
        words.append(details["tag"] + (f", was v{details['before']}" if details["before"] else ""))
    words += [f"{word} {details[name]}" for name, word in _WORDS.items() if details.get(name)]
    return ", ".join(words) or human.NONE


_WORDS = {"reason": "because of", "resumed_from": "from", "keep": "by"}
