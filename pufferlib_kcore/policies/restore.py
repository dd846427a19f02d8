"""Restore: from a model checkpoint to its policy, at whatever sizes its parameters have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.build import build, example_inputs
from pufferlib_kcore.store import ModelFile, checkpoints
from pufferlib_kcore.store.names import parse_model_file


@dataclass(frozen=True)
class Restored:
    """A policy and the file that it came from."""

    policy: nn.Module
    file: ModelFile

    @property
    def spec(self) -> dict[str, Any]:
        return self.file.policy

    @property
    def example_inputs(self) -> tuple:
        """Arguments of forward, on which the graph room traces the policy: state as wide as it is now."""
        return self.examples()

    def examples(self, batch: int = 3, seed: int = 0) -> tuple:
        """The same for another batch."""
        return example_inputs(self.spec, batch, seed, getattr(self.policy, "hidden_size", None))


def restore(
    path: str | Path,
    foreign: Callable[[], dict[str, Any]] | None = None,
    before: Restored | None = None,
) -> Restored:
    """The policy of a model checkpoint: built at full size by its name, resized, filled.

    foreign: only for a file whose maker is trusted, since loading it can run code: describes the policy (a
        spec) of a pickled module, such as PufferLib 2.0's own checkpoints are.
    before: another checkpoint, done with: where it has the same policy in the same shapes, that one is filled
        with these weights, and nothing is built
    Raises UserError where the file is no model checkpoint, or its weights do not fit the policy it names.
    """
    made = None if foreign is None else lambda module: imported(module, foreign(), Path(path))
    file = ModelFile.load(path, made)
    if before is not None and (before.spec, before.file.shapes) == (file.policy, file.shapes):
        fill(before.policy, file.policy, file.state_dict, str(path))
        return Restored(before.policy, file)
    return Restored(refill(file.policy, file.state_dict, str(path)), file)


def imported(module: nn.Module, spec: dict[str, Any], path: Path) -> ModelFile:
    """What a checkpoint of ours would hold of a pickled module; PufferLib's CleanRL wrapper is taken off."""
    inner = module.policy if type(module).__module__.endswith("cleanrl") else module
    assert isinstance(inner, nn.Module)
    name = parse_model_file(path.name)
    epoch = name.epoch if name else 0
    return ModelFile(policy=spec, state_dict=inner.state_dict(), epoch=epoch, agent_steps=0)


def refill(spec: dict[str, Any], state_dict: Mapping[str, Tensor], source: str) -> nn.Module:
    """The policy of `spec` with the given weights, resized where their shapes differ from its own.

    Raises UserError for weights that do not fit; of those Unfit for NaN, and infinity but in masks.
    """
    policy = build(spec)
    own = {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    if own.keys() != wanted.keys():
        odd = sorted(own.keys() ^ wanted.keys())[0]
        raise UserError(
            f"{source} does not fit the policy {spec['name']} that it names: only one of them has {odd!r}"
        )
    if own != wanted:
        policy = graph.resize(policy, wanted, example_inputs(spec))
    fill(policy, spec, state_dict, source)
    return policy


def fill(policy: nn.Module, spec: dict[str, Any], state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load weights into a policy of their shapes.  Edits `policy`; raises as `refill`"""
    checkpoints.check_numbers(source, state_dict, checkpoints.masks_of(policy))
    try:
        policy.load_state_dict(state_dict)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source} does not fit the policy {spec['name']} that it names: {reason}") from None
