"""`ckpt show`: all that is known of one checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ckpt_tracker.cli import human
from ckpt_tracker.cli.command import command
from ckpt_tracker.cli.documents import Document
from ckpt_tracker.cli.opening import open_store
from ckpt_tracker.cli.params import REF

if TYPE_CHECKING:
    from ckpt_tracker.checkpoint import Checkpoint
    from ckpt_tracker.files.manifest import Manifest
    from ckpt_tracker.records import RunRecord
    from ckpt_tracker.store import Store


@command(
    examples=["ckpt show mnist", "ckpt show mnist@best", "ckpt show mnist@epoch:3 --json | jq .config.lr"],
)
@click.argument("ref", type=REF)
def show(ref: str, store: str | None, as_json: bool) -> None:
    """Shows everything about the checkpoint REF: its state section by section, and the run it belongs to."""
    from ckpt_tracker.cli.output import emit_json, emit_pairs
    from ckpt_tracker.disk.formats import file_name
    from ckpt_tracker.files import manifest as manifests

    with open_store(store) as opened:
        checkpoint = opened[ref]
        folder = opened.layout.manifests(checkpoint.run)
        found = manifests.read(folder, checkpoint.version, run=checkpoint.run)
        document = _document(opened, found, checkpoint)
        document["manifest"] = str(folder / file_name(checkpoint.version))
    if as_json:
        emit_json(document)
    else:
        emit_pairs((label, human.printable(text)) for label, text in _lines(document))


def _document(store: Store, found: Manifest, checkpoint: Checkpoint) -> Document:
    from ckpt_tracker.cli.documents import checkpoint_document, monitor_document
    from ckpt_tracker.inspection.usage import section_sizes

    run = store.run_record(found.record.run)
    document = checkpoint_document(found.record, best=_is_best(store, found, run))
    return {
        **document,
        "metrics": checkpoint.metrics,
        "evaluations": checkpoint.evaluations,
        "tags": checkpoint.tags,
        "pinned": checkpoint.pinned,
        "tensors": len(found.tensors),
        "section_sizes": section_sizes(found),
        "config": run.config,
        "environment": run.environment,
        "monitor": monitor_document(run.monitor),
        "finished": run.finished,
    }


def _is_best(store: Store, found: Manifest, run: RunRecord) -> bool:
    return run.monitor is not None and store.index.best(run.name, run.monitor) == found.record.version


def _lines(document: Document) -> Iterator[tuple[str, str]]:
    marks = [name for name in ("best", "pinned") if document[name]]
    marks += [*(["weights only"] if document["full_digest"] else []), *document["tags"]]
    yield "checkpoint", " ".join([document["ref"], *(f"({mark})" for mark in marks)])
    yield "epoch", human.optional(document["epoch"])
    yield "step", human.optional(document["step"])
    later = {each.name for each in document["evaluations"]}
    metrics = {name: human.number(value) for name, value in document["metrics"].items()}
    yield from _numbered("metrics", {**metrics, **{name: f"{metrics[name]} (measured later)" for name in later}})
    if document["nonfinite"]:
        yield from _numbered("never best", {path: f"holds {kind}" for path, kind in document["nonfinite"].items()})
    yield from _saving(document)
    yield "digest", document["digest"]
    if document["full_digest"]:
        yield "when whole", f"digest {document['full_digest']}"
    for parent in document["parents"]:
        changed = f", with {human.compact(parent['overrides'])}" if parent["overrides"] else ""
        yield "parent", f"{parent['ref']}{changed} (digest {parent['digest']})"
    yield from _numbered("sections", {name: _section(each) for name, each in document["section_sizes"].items()})
    yield "manifest", human.path(document["manifest"])
    monitor = document["monitor"]
    yield "monitor", f"{monitor['metric']} ({monitor['mode']})" if monitor else human.NONE
    yield "run finished", "yes" if document["finished"] else "no"
    yield from _numbered("config", {name: human.compact(value) for name, value in document["config"].items()})
    yield from _numbered("context", dict(_flat(document["context"])))
    yield from _numbered("environment", dict(_flat(document["environment"])))


def _saving(document: Document) -> Iterator[tuple[str, str]]:
    reason = f", reason: {document['reason']}" if document["reason"] else ""
    yield "saved", f"{document['created_at']:%Y-%m-%d %H:%M:%S} UTC{reason}"
    yield "kind", document["kind"]
    yield "size", f"{human.size(document['nbytes'])} in {human.count(document['tensors'], 'tensor')}"
    yield "stored", f"{human.size(document['stored_bytes'])} of it were new to the store"
    stall, write = human.duration(document["stall_seconds"]), human.duration(document["write_seconds"])
    yield "stall", f"{stall}; written in the background in {write}"


def _section(size: Mapping[str, int]) -> str:
    return f"{human.count(size['tensors'], 'tensor')}, {human.size(size['nbytes'])}"


def _numbered(label: str, values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The label in front of the first of several lines."""
    for index, (name, value) in enumerate(values.items()):
        yield "" if index else label, f"{name}: {value}"
    if not values:
        yield label, human.NONE


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, human.compact(value)
