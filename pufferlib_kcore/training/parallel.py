"""Parallel: one training in several processes that torchrun starts; each has a part of the environments.

Gradients are averaged over all steps of a minibatch, wherever they were taken, and advantages normalized over
all of them, so that so many processes learn what one would learn from the same global batch.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.training.layout import load_optimizer

Found = TypeVar("Found")


@dataclass(frozen=True)
class Group:
    """The processes of a training. Alone, nothing is exchanged."""

    rank: int = 0
    size: int = 1
    here: int = 1  # of them, on this machine
    _shared: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def total(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            x = x.clone()
            dist.all_reduce(x)
        return x

    def average_gradients(self, policy: nn.Module) -> None:
        """Each gradient becomes its mean over the processes, in one exchange."""
        if self.size == 1:
            return
        gradients = [p.grad for p in policy.parameters() if p.grad is not None]
        count = sum(g.numel() for g in gradients)
        if self.here == self.size and not gradients[0].is_cuda:
            mean = self._mean_in_shared_memory(gradients, count)
        else:
            mean = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(mean)
            mean /= self.size
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _mean_in_shared_memory(self, gradients: list[Tensor], count: int) -> Tensor:
        """(count,): each process writes its gradients where all see them, and averages a part of all."""
        if count not in self._shared:
            path = self.first(lambda: shared_file((self.size + 1) * count * 4))
            flat = torch.from_file(path, shared=True, size=(self.size + 1) * count)
            self._shared[count] = flat.view(self.size + 1, count)
            dist.barrier()
            if self.leads:
                os.unlink(path)  # the memory stays until the last process ends
        every, mean = self._shared[count][:-1], self._shared[count][-1]
        torch.cat([g.flatten() for g in gradients], out=every[self.rank])
        dist.barrier()
        own = slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)
        torch.mean(every[:, own], 0, out=mean[own])
        dist.barrier()
        return mean

    def any(self, said: bool) -> bool:
        """Whether one of the processes says so."""
        return bool(self.total(torch.tensor(float(said))).item()) if self.size > 1 else said

    def joined(self, values: list) -> list:
        """The lists of all processes, one after the other."""
        if self.size == 1:
            return values
        found: list = [None] * self.size
        dist.all_gather_object(found, values)
        return [value for part in found for value in part]

    def first(self, make: Callable[[], Found]) -> Found:
        """What the first process makes, given to all; where that is a user's mistake, all end."""
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        error: BaseException | None = None
        if self.leads:
            try:
                box[0] = make()
            except BaseException as raised:
                box[1], error = True, raised
        dist.broadcast_object_list(box)
        if error is not None:
            raise error
        if box[1]:
            raise SystemExit(0)  # the first one says what it was
        return box[0]

    def same_weights(self, policy: nn.Module) -> None:
        """All take the first one's parameters and buffers."""
        if self.size > 1:
            for tensor in (*policy.parameters(), *policy.buffers()):
                dist.broadcast(tensor.data, 0)

    def same_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """All take the first one's state of the optimizer."""
        if self.size > 1:
            load_optimizer(optimizer, self.first(lambda: on_cpu(optimizer.state_dict())))

    def part(self, whole: int, name: str, of: int = 1) -> int:
        """This process's part of a number, a multiple of `of`.  Raises UserError"""
        if whole % (self.size * of):
            near = max(1, round(whole / (self.size * of))) * self.size * of
            raise UserError(
                f"train.{name} = {whole} cannot be shared by {self.size} processes: try "
                f"--train.{name.replace('_', '-')} {near}"
            )
        return whole // self.size


ALONE = Group()


def on_cpu(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state_dict, its moments in main memory, which every process can read."""
    state = {
        index: {name: m.cpu() if isinstance(m, Tensor) else m for name, m in moments.items()}
        for index, moments in optimizer["state"].items()
    }
    return {**optimizer, "state": state}


def shared_file(size: int) -> str:
    """A new file of so many bytes, in memory where the system has room for it there."""
    memory = "/dev/shm"
    try:
        room = os.statvfs(memory)
        folder = memory if room.f_bavail * room.f_frsize > size else None
    except OSError:
        folder = None
    file, path = tempfile.mkstemp("-gradients", dir=folder)
    os.truncate(file, size)
    os.close(file)
    return path


@contextmanager
def group(device: torch.device) -> Iterator[Group]:
    """The group that torchrun has put this process into (RANK, WORLD_SIZE), else it alone."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Imported later, its functions' defaults would hold the group, and the group its threads, beyond the end
    # of Python, where a thread that asks for the interpreter aborts the process.
    from torch.distributed.nn import functional  # noqa: F401

    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
        dist.barrier()  # who leaves first would cut off those who still work
    finally:
        dist.destroy_process_group()


def join_episodes(episodes: Any, together: Group) -> None:
    """Put the episodes of all processes into each one's record.  Edits `episodes`"""
    episodes.returns = together.joined(episodes.returns)
    episodes.lengths = together.joined(episodes.lengths)
    keys: Iterable[str] = dict.fromkeys(together.joined(sorted(episodes.other)))
    episodes.other = {key: together.joined(episodes.other.get(key, [])) for key in keys}
