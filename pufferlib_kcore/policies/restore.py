"""Restore: from a model checkpoint to its policy, at whatever sizes its parameters have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.build import build, example_inputs
from pufferlib_kcore.store import checkpoints


@dataclass(frozen=True)
class Restored:
    """A policy and the checkpoint that it came from (see store.checkpoints)."""

    policy: nn.Module
    payload: dict[str, Any]

    @property
    def spec(self) -> dict[str, Any]:
        return self.payload["policy"]

    @property
    def example_inputs(self) -> tuple:
        """Arguments of forward, on which the graph room traces the policy: state as wide as it is now."""
        return example_inputs(self.spec, hidden_size=getattr(self.policy, "hidden_size", None))


def restore(path: str | Path) -> Restored:
    """The policy of a model checkpoint: built at full size by its name, resized, filled.

    Raises UserError where the file is no model checkpoint, or its weights do not fit the policy it names.
    """
    payload = checkpoints.load(path, format=checkpoints.MODEL)
    return Restored(refill(payload["policy"], payload["shapes"], payload["state_dict"], str(path)), payload)


def refill(
    spec: dict[str, Any], shapes: dict[str, Any], state_dict: dict[str, Any], source: str
) -> nn.Module:
    """The policy of `spec`, resized to `shapes` where they differ from its own, with the given weights."""
    policy = build(spec)
    own = {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    if own.keys() != wanted.keys():
        odd = sorted(own.keys() ^ wanted.keys())[0]
        raise UserError(
            f"{source} does not fit the policy {spec['name']} that it names: only one of them has {odd!r}"
        )
    if own != wanted:
        policy = graph.resize(policy, wanted, example_inputs(spec))
    try:
        policy.load_state_dict(state_dict)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source} does not fit the policy {spec['name']} that it names: {reason}") from None
    return policy
