"""PufferLib 3: the policy of a PuffeRL collapses in the middle of its training; nothing of theirs is edited.

Muon (heavyball's, PuffeRL's default) keeps s <- beta s + g and steps along the polar factor of s, or of
g + beta s. s is linear in the gradients, so it maps as a gradient does: the sums over a fiber (the dual map)
are the s that the smaller network would have, exactly. Its polar factor is taken anew at each step and kept
nowhere; it is the smaller network's own from then on, and no image of the larger one's.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.finite import finite
from pufferlib_kcore.fibration.quotient import PICK, Axis, Segment, carry
from pufferlib_kcore.graph.colorings import THRESHOLD
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.merging import Collapse
from pufferlib_kcore.graph.optimizer import collapse_optimizer
from pufferlib_kcore.graph.traced import Traced
from pufferlib_kcore.graph.traced import trace as trace_policy
from pufferlib_kcore.store import atomic

SEGMENTS = 16  # that a policy is traced on


def trace(pufferl: Any) -> Traced:
    """Its policy, traced on observations that it has recorded: (segments, time, ..) of a recurrent one."""
    return _traced(pufferl.uncompiled_policy, _seen(pufferl), pufferl.config["use_rnn"])


def collapse(pufferl: Any, threshold: float | Mapping[str, float] = THRESHOLD, **how: Any) -> Collapse:
    """Make the policy of a PuffeRL smaller where it stands; its train() and evaluate() go on with it.

    pufferl    PufferLib 3's trainer, between two calls of evaluate and train
    threshold  and `how` (colors, round_to, published) as `Traced.color` has them
    -> what was merged, and why others were not
    Policy, compiled policy, optimizer (the same object, as its scheduler holds it; its state by the dual map)
    and the LSTM's state are replaced together, or nothing is: where a method does not fit what `forward`
    showed, or the optimizer keeps what cannot be mapped, a UserError says so and all stays as it was.
    """
    traced = trace(pufferl)
    policy = pufferl.uncompiled_policy
    found = traced.merge(traced.color(threshold, **how))
    smaller = found.policy
    state = collapse_optimizer(pufferl.optimizer, found, policy)["state"]
    memory = [_cut(policy, found, kept) for kept in _memory(pufferl)]
    _check_steps(policy, found, _seen(pufferl)[:, 0], recurrent=bool(memory))
    compiled: Any = smaller
    if pufferl.policy is not policy:
        config = pufferl.config
        compiled = torch.compile(smaller, mode=config["compile_mode"], fullgraph=config["compile_fullgraph"])
    _swap(pufferl.optimizer, smaller, policy, state)
    for kept, cut in zip(_memory(pufferl), memory, strict=True):
        kept.update(cut)
    pufferl.uncompiled_policy, pufferl.policy = smaller, compiled
    pufferl.model_size = sum(p.numel() for p in smaller.parameters() if p.requires_grad)
    return found


def collapse_checkpoint(
    path: str | Path,
    to: str | Path,
    policy: nn.Module,
    observations: Tensor,
    threshold: float | Mapping[str, float] = THRESHOLD,
    **how: Any,
) -> Collapse:
    """Collapse a model_*.pt of PufferLib 3 and write the smaller one, which --load-model-path takes.

    policy        of the class and widths that wrote it; its own weights are not looked at, nor changed
    observations  some to run it on, (batch, ..), or (batch, time, ..) for a recurrent one
    Only tensors are read, never code. `arguments` of the result's policy says what PufferLib must be told.
    Raises UserError where the file is none of this policy's, or `to` is there already.
    """
    if Path(to).exists():
        raise UserError(f"{to} is there already: name another file")
    full = _loaded(path, policy)
    traced = _traced(full, observations, hasattr(full, "lstm"))
    found = traced.merge(traced.color(threshold, **how))
    content = io.BytesIO()
    torch.save(found.policy.state_dict(), content)
    atomic.write(to, content.getbuffer())
    return found


def arguments(policy: nn.Module) -> list[str]:
    """The words that make `puffer train` build a policy of this size: a Default, alone or with LSTM.

    Raises UserError where its arguments cannot say these widths: Default has one for encoder and decoder.
    """
    inner = getattr(policy, "policy", policy)
    encoder = next((layer for layer in inner.modules() if isinstance(layer, nn.Linear)), None)
    if encoder is None or not hasattr(inner, "hidden_size"):
        raise UserError(f"{type(inner).__name__} has no hidden_size: say its widths as its class takes them")
    width, lstm = encoder.out_features, getattr(policy, "lstm", None)
    if lstm is None:
        return ["--policy.hidden-size", str(width)]
    if lstm.hidden_size != width:
        raise UserError(
            f"the encoder has {width} units and the LSTM {lstm.hidden_size}, and PufferLib's Default has one "
            "hidden_size for both: load it in a policy class of your own, or train on by collapse(pufferl)"
        )
    words = {"policy.hidden-size": width, "rnn.input-size": width, "rnn.hidden-size": width}
    return [word for name, size in words.items() for word in (f"--{name}", str(size))]


def _seen(pufferl: Any) -> Tensor:
    """Some of what it recorded (segments, time, ..), where its policy is: cpu_offload keeps it elsewhere."""
    return pufferl.observations[:SEGMENTS].to(next(pufferl.uncompiled_policy.parameters()).device)


def _traced(policy: nn.Module, observations: Tensor, recurrent: bool) -> Traced:
    if recurrent:
        return trace_policy(policy, (observations, {"lstm_h": None, "lstm_c": None}))
    return trace_policy(policy, (observations.flatten(0, 1) if observations.ndim > 2 else observations,))


def _memory(pufferl: Any) -> list[dict[Any, Tensor]]:
    return [pufferl.lstm_h, pufferl.lstm_c] if pufferl.config["use_rnn"] else []


def _cut(policy: nn.Module, found: Collapse, kept: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """An LSTM's states (environments, units), each fiber's as its neurons have it."""
    if "lstm.weight_hh_l0" not in found.network.table:
        raise UserError(f"{type(policy).__name__} has a state, and no lstm.weight_hh_l0 that it is of")
    units = found.network.table["lstm.weight_hh_l0"][1]

    def cut(x: Tensor) -> Tensor:
        axes: tuple[Axis, ...] = ((Segment(None, units=len(x)),), units)
        return carry(x, axes, found.merges, PICK)

    return {name: cut(x) for name, x in kept.items()}


def _check_steps(policy: nn.Module, found: Collapse, seen: Tensor, recurrent: bool) -> None:
    """forward_eval shares forward's parameters: it must compute with them what the lift of these computes."""
    if not hasattr(policy, "forward_eval"):
        return

    def stepped(at: Any) -> list[Tensor]:
        state = {}
        if recurrent:
            zeros = seen.new_zeros((len(seen), at.lstm.hidden_size), dtype=torch.float32)
            state = {"lstm_h": zeros, "lstm_c": zeros}
        logits, value = at.forward_eval(seen, state)
        told = logits if isinstance(logits, (tuple, list)) else [logits]
        return [*[getattr(x, "loc", x) for x in told], value]

    kind = type(policy).__name__
    try:
        with torch.no_grad():
            small, large = stepped(found.policy), stepped(found.lifted())
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"forward_eval of {kind} does not fit the smaller policy ({str(error).splitlines()[0]}): it uses "
            "sizes that forward does not show; nothing was changed"
        ) from error
    for x, y in zip(small, large, strict=True):
        if x.shape != y.shape or not torch.allclose(x, y, rtol=1e-3, atol=1e-4):
            raise UserError(f"forward_eval of {kind} computes otherwise than forward; nothing was changed")


def _swap(optimizer: Any, smaller: nn.Module, policy: nn.Module, state: Mapping[Any, Any]) -> None:
    """The same optimizer, over the smaller policy's parameters: whatever holds it goes on holding it."""
    names = {id(p): name for name, p in policy.named_parameters()}
    fresh = dict(smaller.named_parameters())
    index = 0
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group["params"] = [fresh[names[id(p)]] for p in group["params"]]
        for p in group["params"]:
            if index in state:
                optimizer.state[p] = dict(state[index])
            index += 1
    if isinstance(getattr(optimizer, "mapping", None), dict):  # heavyball's views of the parameters
        optimizer.mapping.clear()


def _loaded(path: str | Path, policy: nn.Module) -> nn.Module:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no file {path}: name a model_*.pt that PufferLib wrote") from None
    except Exception as error:  # whatever unpickling says of a file that is none
        raise UserError(f"{path} is no file of weights alone: {str(error).splitlines()[0][:120]}") from None
    full = copy_of(policy)
    try:
        full.load_state_dict({name.removeprefix("module."): x for name, x in held.items()})
    except (RuntimeError, AttributeError) as error:
        said = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} is not of this {type(policy).__name__}: {said}") from None
    for name, x in full.state_dict().items():
        finite(x, f"{name} of {path}", "name another checkpoint")
    return full
