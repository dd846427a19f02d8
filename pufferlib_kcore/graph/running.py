"""Running: calls of somebody's policy that leave it as it was, and where in its code something happened."""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

PACKAGE = __name__.rpartition(".graph")[0]
PLUMBING = ("torch._tensor", "torch.overrides", "torch.functional", "torch.nn.functional", "torch.utils._")


@contextmanager
def aside(policy: nn.Module) -> Iterator[None]:
    """Calls in this block leave the policy's buffers and what else its modules keep, and chance, as they are.

    What is compiled runs as it was written.
    """
    modules = [module for module in policy.modules() if not is_script(module)]
    kept = [(module, dict(vars(module)), dict(module._buffers)) for module in modules]
    for module, attributes, buffers in kept:
        module._buffers.update({name: x if x is None else x.clone() for name, x in buffers.items()})
        vars(module).update({n: _own(x) for n, x in attributes.items() if not n.startswith("_")})
    try:
        with chance_kept(policy), uncompiled():
            yield
    finally:
        for module, attributes, buffers in kept:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.update(buffers)


def _own(value: Any) -> Any:
    """A copy of what a call may write into."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return value.clone()
    return copy.copy(value) if type(value) in (list, dict, set, deque) else value


@contextmanager
def chance_kept(policy: nn.Module, seed: int | None = None) -> Iterator[None]:
    """A block that leaves the generators of the CPU and of the policy's GPUs as they are.

    seed  these start from within
    """
    gpus = sorted({p.get_device() for p in policy.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=gpus):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            for gpu in gpus:
                torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


def uncompiled() -> AbstractContextManager[object]:
    """A block in which torch.compile does nothing."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the import would take seconds
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def is_script(module: nn.Module) -> bool:
    """Whether it is TorchScript, whose insides Python does not see."""
    return isinstance(module, torch.jit.ScriptModule)


def caller() -> FrameType | None:
    """The frame, outside torch's own plumbing and this package, that asked torch for something."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _module(frame).startswith((PACKAGE, *PLUMBING)):
        frame = frame.f_back
    return frame


def is_torchs(frame: FrameType | None) -> bool:
    """Whether torch asked by itself, as when a distribution checks its arguments."""
    return frame is not None and _module(frame).startswith("torch.")


def place_of(frame: FrameType | None) -> str:
    """Where a frame is, for people: "policy.py:31"."""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "?"


def line_of(error: BaseException) -> str:
    """The innermost line of the user's that an error came from, for people; "" where there is none."""
    found, at = "", error.__traceback__
    while at is not None:
        if not _module(at.tb_frame).startswith(("torch.", PACKAGE)):
            found = _shown(at)
        at = at.tb_next
    return found


def _shown(at: TracebackType) -> str:
    import linecache

    name = at.tb_frame.f_code.co_filename
    line = linecache.getline(name, at.tb_lineno).strip()
    return f"{Path(name).name}:{at.tb_lineno}" + (f" `{line}`" if line else "")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
