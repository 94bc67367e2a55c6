"""torch's tensors as bytes: the one door of the core to torch, opened only where torch is in use.

Whatever device a tensor was on, it comes back on the CPU; `load_state_dict` moves it where it belongs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from mmap import mmap
from typing import TYPE_CHECKING, Any

import torch

from ckpt_tracker.errors import Damaged
from ckpt_tracker.records import TensorSpec
from ckpt_tracker.state.glances import Glance, glance_at
from ckpt_tracker.state.torch_devices import DeviceTransfer, lock_pages

if TYPE_CHECKING:
    from ckpt_tracker.state.tensors import Bytes

_PLAIN_CLASSES = (torch.Tensor, torch.nn.Parameter)
_PARTS_OF_A_BYTE = {f"{sign}int{bits}" for sign in ("u", "") for bits in range(1, 8)}


class TorchKind:
    """Dense torch tensors of any device and any type with whole bytes."""

    def describe(self, tensor: torch.Tensor) -> TensorSpec:
        """A TensorSpec of kind `torch`. Raises TypeError for sparse, quantized, meta and subclassed tensors."""
        form = _special_form(tensor)
        if form is not None:
            raise TypeError(f"a {form} torch tensor")
        flags = ("parameter",) if type(tensor) is torch.nn.Parameter else ()
        if tensor.requires_grad:
            flags = (*flags, "requires_grad")
        size = tensor.numel() * tensor.element_size()
        return TensorSpec("torch", _name(tensor.dtype), tuple(tensor.shape), size, flags)

    def identity(self, tensor: torch.Tensor) -> Hashable | None:
        """The tensor's device, address, type, shape and strides; None for an empty one."""
        if tensor.numel() == 0:
            return None
        return ("torch", tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())

    def copy_into(self, tensor: torch.Tensor, buffer: Bytes) -> None:
        """One copy, from whatever device and strides; it releases the GIL."""
        self.copy_all([tensor], buffer, [0])

    def copy_all(self, tensors: Sequence[torch.Tensor], memory: Bytes, starts: Sequence[int]) -> None:
        """The same for each: a third of the time that small ones take by themselves."""
        whole = torch.from_numpy(memory)
        typed: dict[torch.dtype, torch.Tensor] = {}
        with torch.no_grad():
            for tensor, start in zip(tensors, starts, strict=True):
                if tensor.numel() == 0:
                    continue
                every = typed.get(tensor.dtype)
                if every is None:
                    every = typed[tensor.dtype] = whole.view(tensor.dtype)
                place = start // tensor.element_size()
                if tensor.is_contiguous():
                    target = every.as_strided(tensor.shape, tensor.stride(), place)
                else:
                    target = every[place : place + tensor.numel()].view(tensor.shape)
                # from a device it is only queued: it is there when the transfer is left
                target.copy_(tensor, non_blocking=tensor.is_cuda)

    def build(self, spec: TensorSpec, data: Bytes) -> torch.Tensor:
        """A tensor over `data` itself, on the CPU."""
        dtype = _dtype_named(spec.dtype)
        if spec.nbytes == 0:
            tensor = torch.empty(spec.shape, dtype=dtype)
        else:
            tensor = torch.from_numpy(data).view(dtype).view(spec.shape)
        if "parameter" in spec.flags:
            return torch.nn.Parameter(tensor, requires_grad="requires_grad" in spec.flags)
        return tensor.requires_grad_("requires_grad" in spec.flags)

    def allocate(self, nbytes: int) -> Bytes:
        """torch's own: NumPy asks for huge pages, whose first touch takes several times as long on virtual machines."""
        data: Bytes = torch.empty(nbytes, dtype=torch.uint8).numpy()
        return data

    def memory(self, tensor: torch.Tensor) -> Bytes | None:
        """The bytes of a tensor on the CPU."""
        plain = tensor.device.type == "cpu" and tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg())
        if not plain or not tensor.numel():
            return None
        data: Bytes = tensor.detach().reshape(-1).view(torch.uint8).numpy()
        return data

    def glance(self, tensor: torch.Tensor) -> Glance | None:
        """At the changes that torch has counted, and at bytes in this memory."""
        if tensor.is_cuda:
            return Glance(tensor.data_ptr(), tensor._version, b"")
        memory = self.memory(tensor)
        return None if memory is None else glance_at(memory, version=tensor._version)

    def transfer(self, tensors: Sequence[torch.Tensor], memory: mmap) -> AbstractContextManager[object]:
        """From CUDA devices by page-locked memory, on streams of their own."""
        devices = {tensor.device for tensor in tensors if tensor.is_cuda}
        if not devices:
            return contextlib.nullcontext()
        lock_pages(memory)
        return DeviceTransfer(devices)


def encode_value(value: object) -> dict[str, Any] | None:
    """The JSON form of torch's values that are no tensors; None for anything else."""
    if type(value) is torch.Size:
        return {"$size": list(value)}
    if isinstance(value, torch.dtype):
        return {"$dtype": _name(value)}
    if isinstance(value, torch.device):
        return {"$device": str(value)}
    return None


def decode_value(tag: str, body: Any) -> object:
    """What `encode_value` made JSON of."""
    if tag == "$size":
        # torch takes any integer, and fails when it is asked for it
        if not all(type(each) is int and abs(each) < 2**63 for each in body):
            raise Damaged("a size of the tree is none")
        return torch.Size(body)
    if tag == "$device":
        return torch.device(str(body))
    return _dtype_named(str(body))


def _dtype_named(name: str) -> torch.dtype:
    # not getattr: torch loads modules of its own for some names
    dtype = vars(torch).get(name)
    if not isinstance(dtype, torch.dtype):
        raise Damaged(f"torch {torch.__version__} has no tensor type {name[:60]!r}")
    return dtype


def _special_form(tensor: torch.Tensor) -> str | None:
    """What keeps a tensor from being plain bytes, in words; None for an ordinary one."""
    if type(tensor) not in _PLAIN_CLASSES:
        return type(tensor).__qualname__
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.is_quantized:
        return "quantized"
    if tensor.is_meta:
        return "meta (shape without values)"
    name = _name(tensor.dtype)
    return name if name in _PARTS_OF_A_BYTE else None


@lru_cache(maxsize=256)
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
