"""A training whose DataLoader has workers, started by fork, forkserver or spawn: `workers.py STORE METHOD`.

Where workers are forked they hold all that the training does, and try what they must not.
"""

import contextlib
import sys

import torch

from ckpt_tracker import Store
from ckpt_tracker.errors import RunBusy, SaveFailed
from ckpt_tracker.integrations.torch import CheckpointTracker

HELD = []


class Data(torch.utils.data.Dataset):
    """Thirty-two numbers."""

    def __len__(self):
        """How many."""
        return 32

    def __getitem__(self, index):
        """One of them; in a fork only after a save, a wait and a close that don't do anything."""
        for store, run, checkpoint in HELD if torch.utils.data.get_worker_info() else ():
            for attempt in (lambda run=run: run.save({"model": {}}), checkpoint.wait, store.close):
                with contextlib.suppress(RunBusy, SaveFailed):
                    attempt()
        return torch.tensor([float(index), 1.0])


def main(store, method):
    """Two epochs, a checkpoint every two steps, and workers that start anew in each epoch."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 3000)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    loader = torch.utils.data.DataLoader(Data(), batch_size=4, num_workers=2, multiprocessing_context=method)
    tracker = CheckpointTracker(
        store, "run", model=model, optimizer=optimizer, every=["1 epoch", "2 steps"], keep="last:50"
    )
    other = Store(store)
    run = other.run("other")
    with tracker:
        for _ in tracker.epochs(2):
            HELD[:] = [(other, run, run.save({"model": {"w": torch.rand(10**6)}}))]
            for batch in tracker.batches(loader):
                optimizer.zero_grad()
                model(batch).square().mean().backward()
                optimizer.step()
    other.close()
    print("ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
