"""A state that is changed in place right after `save` has returned is saved as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ckpt_tracker import Store

SAVES = 1_000


def test_no_checkpoint_mixes_two_states(tmp_path: Path) -> None:
    """1,000 saves of tensors small and large, each overwritten at once; every checkpoint holds one number alone."""
    state = {"small": np.zeros(50), "large": np.zeros(40_000), "scalar": np.zeros(()), "strided": np.zeros((64, 64)).T}
    with Store(tmp_path / "store") as store:
        run = store.run("r")
        saved = []
        for number in range(SAVES):
            for each in state.values():
                each[...] = number
            saved.append(run.save({"model": state}, step=number))
            for each in state.values():
                each[...] = -1
        mixed = [
            (checkpoint.ref, name)
            for checkpoint in saved
            for name, array in checkpoint.load("model").items()
            if not (array == checkpoint.step).all()
        ]
    assert len(saved) == SAVES
    assert mixed == []
