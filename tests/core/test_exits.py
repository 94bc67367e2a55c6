"""However a training's process ends in order, what it has saved is durable; and what could not be is said."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckpt_tracker import Store

SAVES = """
import sys
import numpy as np
from ckpt_tracker import Store
store = Store(sys.argv[1])
run = store.run("r")
for epoch in range(3):
    checkpoint = run.save({"model": {"w": np.full(500_000, epoch)}}, epoch=epoch)
"""

ENDS = {
    "falling off the end": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise ZeroDivisionError", 1),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", -signal.SIGINT),
    "an exit inside a function of another thread": (
        "import threading; t = threading.Thread(target=lambda: run.save({'loop': {}}).wait()); t.start(); t.join()",
        0,
    ),
    "without anybody holding the store": ("del store, run, checkpoint", 0),
}


@pytest.mark.parametrize(("end", "code"), ENDS.values(), ids=ENDS.keys())
def test_what_is_queued_at_the_exit_is_durable(start: Callable[..., Any], path: Path, end: str, code: int) -> None:
    """Nobody waited, nothing was closed."""
    process = start(f"{SAVES}{end}\n", path)
    process.end()
    assert process.popen.returncode == code
    with Store(path) as store:
        for epoch, checkpoint in enumerate(store.run("r").checkpoints()[:3]):
            assert checkpoint.epoch == epoch
            assert (checkpoint.load("model")["w"] == epoch).all()
        assert len(store.run("r").checkpoints()) >= 3
        assert store.gc() == 0


def test_a_save_at_the_very_exit_is_durable(python: Callable[..., str], path: Path) -> None:
    """By a handler that was there before ours, and so runs after it."""
    output = python(
        """
        import atexit, sys
        atexit.register(lambda: print(run.save({"loop": {}}).wait(60).ref))
        from ckpt_tracker import Store
        store = Store(sys.argv[1])
        run = store.run("r")
        run.save({"loop": {}})
        """,
        path,
    )
    assert output == "r@v2"


def test_ctrl_c_in_the_middle_of_training_loses_nothing_that_was_saved(start: Callable[..., Any], path: Path) -> None:
    """The signal goes to the training's thread; the writer finishes."""
    process = start(f"{SAVES}print('saved', flush=True)\nwhile True:\n    pass\n", path)
    assert process.line() == "saved"
    process.popen.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.end()[1]
    with Store(path) as store:
        assert [each.epoch for each in store.run("r").checkpoints()] == [0, 1, 2]


def test_a_with_block_waits_however_it_is_left(start: Callable[..., Any], path: Path) -> None:
    """The store is closed before the exception goes on."""
    process = start(
        """
        import sys
        import numpy as np
        from ckpt_tracker import Store
        try:
            with Store(sys.argv[1]) as store:
                checkpoint = store.run("r").save({"model": {"w": np.ones(500_000)}})
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print(checkpoint._pending.done)
        """,
        path,
    )
    output, errors = process.end()
    assert (output, errors, process.popen.returncode) == ("True\n", "", 0)


def test_a_save_that_fails_at_the_exit_is_not_silent(start: Callable[..., Any], path: Path) -> None:
    """There is no next call that could raise it, so it is logged."""
    process = start(
        """
        import os, sys
        from ckpt_tracker import Store
        store = Store(sys.argv[1])
        run = store.run("r")
        os.rmdir(store.layout.tmp)
        run.save({"loop": {}})
        """,
        path,
    )
    assert "r@v1 was not saved: FileNotFoundError" in process.end()[1]


FULL = """
    import resource, signal, sys
    import numpy as np
    from ckpt_tracker import Store
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = Store(sys.argv[1])
    run = store.run("r")
    small = {"model": {"w": np.ones(1000)}}
    run.save(small).wait()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limit[1]))
    run.save({"model": {"w": np.random.default_rng(0).random(1_000_000)}})
    run._drain()
    try:
        run.save(small)
    except Exception as error:
        print(type(error).__name__, str(error).partition(";")[0])
    print(len(list(store.layout.tmp.iterdir())), "left in tmp")
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    print(run.save(small).wait().ref)
    store.close()
    print([each.ref for each in run.checkpoints() if each.verify().ok])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are POSIX's")
def test_a_write_that_the_system_refuses_is_raised_at_the_next_save(python: Callable[..., str], path: Path) -> None:
    """A limit in the middle of an object: nothing is left in `tmp/`, earlier checkpoints are intact, saving goes on."""
    assert python(FULL, path).split("\n") == [
        "SaveFailed r@v2 was not saved: OSError(27, 'File too large')",
        "0 left in tmp",
        "r@v3",
        "['r@v1', 'r@v3']",
    ]
