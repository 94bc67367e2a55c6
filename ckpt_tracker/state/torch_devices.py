"""Copies of torch's tensors from CUDA devices into the staging buffer, at the speed of the bus.

A device writes by itself into memory that is page-locked; into any other the driver copies by a detour, at a fraction
of the speed. Copies run on a stream of their own, so that what the training queues next does not wait for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections.abc import Iterable
from mmap import mmap
from types import TracebackType

import torch

_locked: weakref.WeakSet[mmap] = weakref.WeakSet()


class DeviceTransfer:
    """Entered by the thread that copies: copies see what was queued before this was made, and are done once left."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._made = {device: torch.cuda.current_stream(device).record_event() for device in devices}
        self._streams: list[torch.cuda.Stream] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        for device, made in self._made.items():
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_event(made)
            self._stack.enter_context(torch.cuda.stream(stream))
            self._streams.append(stream)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        for stream in self._streams:
            stream.synchronize()


def lock_pages(memory: mmap) -> None:
    """Page-locks the memory until it is freed. Where the system does not let us, copies take the detour."""
    if memory in _locked:
        return
    _locked.add(memory)
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    view = (ctypes.c_char * len(memory)).from_buffer(memory)
    address = ctypes.addressof(view)
    if runtime.cudaHostRegister(address, len(memory), 0) == runtime.cudaError.success:
        weakref.finalize(memory, runtime.cudaHostUnregister, address).atexit = False
