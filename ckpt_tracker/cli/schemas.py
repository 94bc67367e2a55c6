"""What each command prints with `--json`: part of the public interface. A key, once printed, keeps its meaning.

A shape is a dict of keys (a `?` behind one: it may be missing; `*`: any keys), a list of one shape (an array), a
tuple of several (one of them), or the name of a kind with words about it: `integer`, `number`, `text`, `boolean`,
`time` (ISO 8601, UTC), `reference`, `any`, each with `?` where it may be null. NaN and infinity are null.
"""

from __future__ import annotations

from typing import Any

Shape = Any
ANYTHING = {"*": "any"}
MONITOR = {"metric": "text", "mode": "text: min or max"}
EVALUATION = {
    **{"version": "integer", "name": "text", "value": "number?", "at": "time"},
    **{"by": "text?", "user": "text?"},
}
CHECKPOINT = {
    "ref": "reference",
    "run": "text",
    "version": "integer",
    "epoch": "integer?: the epoch last finished, from 0",
    "step": "integer?: optimizer steps done",
    "metrics": {"*": "number?"},
    "created_at": "time",
    "digest": "text: equal exactly where two states are bit-equal",
    "nbytes": "integer: logical bytes of all its tensors",
    "stored_bytes": "integer: what of that was new to the store",
    "shared_bytes": "integer: what the store had before",
    "sections": ["text"],
    "kind": "text",
    "reason": "text?: why it was saved",
    "parents": [{"ref": "reference", "digest": "text", "overrides": ANYTHING}],
    "stall_seconds": "number: how long the training waited for it",
    "write_seconds": "number: how long writing took, in the background",
    "context": {"*": "any: world size, data, …"},
    "tags": ["text"],
    "pinned": "boolean",
    "full_digest": "text?: of one with weights only, its digest when it was whole",
    "nonfinite": {"*": "text: nan or inf, of weights that hold such"},
    "evaluations": [EVALUATION],
    "best": "boolean: by its run's own monitor",
}
DECISION = {
    **{
        name: CHECKPOINT[name] for name in ("ref", "run", "version", "epoch", "step", "metrics", "created_at", "nbytes")
    },
    "keep": "boolean",
    "weights_only": "boolean: it loses what predictions don't need",
    "reasons": ["text"],
}
FINDING = {
    **{"ref": "text: a reference or a run, or empty where it is the store's", "path": "text", "problem": "text"},
    **{"kind": "text", "loads": ["text: a section that still loads"]},
}
_END = {name: CHECKPOINT[name] for name in ("ref", "run", "version", "epoch", "step", "created_at", "digest", "nbytes")}
_CHANGES = [{"name": "text", "values": ["any: before, and after"]}]
_DISTANCE = {
    "elements": "integer",
    "differing": "integer: by their bits",
    "max_absolute": "number?",
    "max_relative": "number?",
    "relative_l2": "number?: the length of the difference, relative to that of the first",
    "nans": ["integer: in the first, and in the second"],
    "infs": ["integer"],
}
_MARK = {"ref": "reference", "pinned": "boolean", "changed": "boolean: it was not so before"}

SCHEMAS: dict[str, Shape] = {
    "runs": [
        {
            **{"name": "text", "created_at": "time", "config": ANYTHING, "environment": ANYTHING},
            "unnamed": "boolean: the tracker made the name up",
            "finished": "boolean: its last training came to its end",
            "monitor": (MONITOR, "null"),
            "last_start": {"*": "any: at, resumed_from, config, environment, keep, …"},
            **{"tags": {"*": "integer: the version"}, "pins": ["integer"], "evaluations": [EVALUATION]},
            **{"checkpoints": "integer: how many", "last": "reference?", "best": "reference?"},
            "stored_bytes": "integer",
        }
    ],
    "ls": [
        {**CHECKPOINT, "reasons": (["text: why its run's retention keeps it"], "null: left out by --columns or number")}
    ],
    "show": {
        **CHECKPOINT,
        "tensors": "integer: how many",
        "section_sizes": {"*": {"tensors": "integer", "nbytes": "integer: what two share counts in the first"}},
        "manifest": "text: its file",
        **{"config": ANYTHING, "environment": ANYTHING, "monitor": (MONITOR, "null"), "finished": "boolean"},
    },
    "best": {**CHECKPOINT, "monitor": MONITOR},
    "why": {"retention": "text", **DECISION},
    "diff": {
        **{"first": _END, "second": _END, "equal": "boolean: their states are bit-equal"},
        "metrics": {"*": ["number?: in the first, and in the second"]},
        **{"config": _CHANGES, "code": _CHANGES, "environment": _CHANGES},
        **{"tensors": "integer: of both, each path once", "changed_tensors": "integer"},
        "differences": [
            {
                **{"path": "text", "section": "text", "tensor": "boolean", "values": ["text?"]},
                "distance": (_DISTANCE, "null: of what has no numbers, or not one type and shape"),
            }
        ],
    },
    "du": {
        "runs": [
            {
                **{"run": "text", "checkpoints": "integer", "nbytes": "integer: logical, of all checkpoints"},
                "needed_bytes": "integer: on the disk",
                "own_bytes": "integer: of these, what no other run needs",
                "keep": "text?: the retention",
                "prunable_bytes": "integer: what a prune by it would free",
            }
        ],
        "sections": [{"section": "text", "nbytes": "integer: logical", "needed_bytes": "integer: on the disk"}],
        **{"object_bytes": "integer: of all on the disk", "trash_bytes": "integer", "unneeded_bytes": "integer"},
        **{"prunable_bytes": "integer: of all runs together", "free_bytes": "integer: of the file system"},
    },
    "watch": CHECKPOINT,
    "log": (
        [
            {
                **{"at": "time", "run": "text", "event": "text: saved, evicted, removed, tagged, started, …"},
                **{"versions": ["integer"], "by": "text?: tracker, python, or a command", "user": "text?"},
                "details": {"*": "any: epoch, step, reason, metrics; tag, before; keep; resumed_from"},
            }
        ],
        {"run": "text: with --at", "at": "time", "tags": {"*": "integer: the version"}},
    ),
    "metrics": {
        "ref": "reference",
        "metrics": [
            {
                **{"name": "text", "value": "number?", "added_at": "time?: null for the training's own"},
                **{"by": "text?", "user": "text?"},
            }
        ],
    },
    "tag": {"ref": "reference", "tag": "text", "before": "reference?: what had the name", "deleted": "boolean"},
    "pin": _MARK,
    "unpin": _MARK,
    "prune": {
        **{"applied": "boolean", "keep": "text", "freed_bytes": "integer: once the trash is emptied"},
        "decisions": [DECISION],
    },
    "rm": {"removed": ["reference"]},
    "trash": {
        **{"freed_bytes": "integer: what emptying frees", "emptied": "boolean"},
        "checkpoints": [
            {
                **{name: CHECKPOINT[name] for name in ("ref", "run", "version", "epoch", "step", "metrics")},
                **{"removed_at": "time", "until": "time: `ckpt gc` deletes it after that"},
                "stripped": "boolean: it is in its run with its weights only",
                **{"by": "text?", "user": "text?", "keep": "text?: the retention that it fell to"},
            }
        ],
    },
    "undo": {"restored": ["reference"]},
    "gc": {"dry_run": "boolean", "freed_bytes": "integer: what was freed, or would be"},
    "compact": {
        **{"dry_run": "boolean", "objects": "integer: how many are encoded", "before_bytes": "integer"},
        "after_bytes": "integer: about, with --dry-run",
        "freed_bytes": "integer: with what earlier encodings needed, and nothing does any more",
    },
    "export": {
        **{"ref": "reference", "digest": "text", "file": "text: absolute", "format": "text", "section": "text?"},
        **{"tensors": "integer: how many were written", "file_bytes": "integer"},
        "left_out": ["text: a value that the format can't hold"],
    },
    "import": {"ref": "reference", "digest": "text", "nbytes": "integer", "sections": ["text"]},
    "verify": {
        **{"ok": "boolean", "deep": "boolean", "checkpoints": "integer", "objects": "integer", "bytes_read": "integer"},
        **{"findings": [FINDING], "lost": [FINDING]},
    },
    "verify-resume": {
        **{"outcome": "text: equal, different, left out, not deterministic, not tried", "equal": "boolean"},
        **{"headline": "text", "remedy": "text?"},
        "kills": [
            {"after": "integer?", "seconds": "number?", "resumed_from": "reference?", "compared": "integer"},
        ],
        **{"ended_early": "any", "compared": "integer", "checkpoints": "integer", "seconds": "number"},
        "deviation": (
            {
                **{"run": "text", "epoch": "integer?", "step": "integer?", "digests": ["text"]},
                "differences": [
                    {
                        **{"path": "text", "section": "text", "values": ["text?"]},
                        **{f"{name}?": kind for name, kind in _DISTANCE.items()},
                    }
                ],
            },
            "null",
        ),
        "causes": [{"kind": "text", "sentence": "text", "remedy": "text?"}],
        **{"notes": ["text"], "output": "text?: the last lines of a failed script"},
    },
    "repair": {
        "done": "boolean",
        "steps": [{"deed": "text", **FINDING}],
        "losses": [{"ref": "text", "loads": ["text"]}],
        **{"freed_bytes": "integer", "quarantine": "text: the folder"},
    },
    "demo": {
        **{"store": "text", "run": "text", "killed": {"epoch": "integer", "batch": "integer"}},
        **{"resumed_from": "reference?", "checkpoints": [CHECKPOINT], "best": "reference"},
        **{"nbytes": "integer", "stored_bytes": "integer", "stall_seconds": "number", "training_seconds": "number"},
        **{"digest": "text", "uninterrupted_digest": "text", "equal": "boolean"},
    },
}
ONE_A_LINE = ("watch",)


def described(name: str) -> tuple[str, list[tuple[str, str]]]:
    """A heading for the help of a command, and each key with what it holds."""
    shape = SCHEMAS[name]
    heading = "One object a line:" if name in ONE_A_LINE else "An object:"
    if isinstance(shape, tuple):
        first, *others = shape
        return "An array; of each:", [*_keys(first[0]), *(("or", _brief(other)) for other in others)]
    if isinstance(shape, list):
        return "An array; of each:", _keys(shape[0])
    return heading, _keys(shape)


def _keys(shape: dict[str, Shape]) -> list[tuple[str, str]]:
    return [(key, _brief(value)) for key, value in shape.items()]


def _brief(shape: Shape) -> str:
    """`integer or null: …`, `[text]`, `{name text, value number}`, `{…: integer}`."""
    if isinstance(shape, tuple):
        return " or ".join(map(_brief, shape))
    if isinstance(shape, list):
        return f"[{_brief(shape[0])}]"
    if isinstance(shape, str):
        kind, colon, words = shape.partition(":")
        return f"{kind.replace('?', ' or null')}{f' ({words.strip()})' if colon else ''}"
    if [*shape] == ["*"]:
        return f"{{…: {_brief(shape['*'])}}}"
    return f"{{{', '.join(f'{key} {_brief(value)}' for key, value in shape.items())}}}"
