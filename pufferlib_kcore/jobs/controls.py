"""Controls: what is trained in place of a collapsed policy, to compare it with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from pufferlib_kcore import graph
from pufferlib_kcore.graph.rebuild import solve_widths
from pufferlib_kcore.jobs import collapsing
from pufferlib_kcore.jobs.collapsing import Collapsed, CollapseRequest, Ready
from pufferlib_kcore.jobs.progress import Watch, unwatched
from pufferlib_kcore.policies import build
from pufferlib_kcore.policies.restore import restore

Kind = Literal["original", "ablated", "scratch", "scratch-full"]  # as settings.arguments.CONTROLS


@dataclass(frozen=True, kw_only=True)
class ControlRequest:
    """Which control to make ready, and the collapse that it is to be compared with."""

    kind: Kind
    collapse: CollapseRequest


def control(request: ControlRequest, watch: Watch = unwatched) -> Ready:
    """A control, ready to train on.  Raises UserError as `collapse` does."""
    if request.kind == "original":
        return untouched(request.collapse)
    return same_widths(collapsing.collapse(request.collapse, watch), request.kind)


def untouched(request: CollapseRequest) -> Ready:
    """The checkpoint as it is."""
    source = request.source
    epoch, path = source.run.nearest(request.settings.epoch)
    restored = source.read(path)
    params = sum(p.numel() for p in restored.policy.parameters())
    size = {"params_before": params, "params_after": params}
    provenance = {"source": str(path), "epoch": epoch, "thresholds": None, "tag": "original", **size}
    optimizer, note = collapsing.stored_optimizer(source.run, epoch)
    return Ready(
        source=source,
        epoch=epoch,
        agent_steps=restored.file.agent_steps,
        policy=restored.policy,
        spec=restored.spec,
        optimizer=optimizer,
        provenance=provenance,
        text=f"the original, {path}: {note}",
    )


def same_widths(done: Collapsed, kind: Kind) -> Ready:
    """A policy of the collapsed one's widths, drawn with --seed.

    ablated  units of the original at random, as they are, with their part of the optimizer's state
    scratch  untrained, the optimizer cold; epoch and steps go on from the checkpoint, so that it trains as
             long as the collapsed policy is retrained, at the same learning rates
    scratch-full  the same from step 0 on, so that it trains for all the steps that went into the collapsed
             policy, before and after
    """
    original, seed = restore(done.provenance["source"]), done.source.settings().train.seed
    traced = graph.trace(original.policy, original.example_inputs)
    network, generator = traced.network, torch.Generator().manual_seed(seed)
    shapes = {name: p.shape for name, p in done.policy.named_parameters()}
    widths = {name: width for name, width in solve_widths(network, shapes).items() if not network[name].whole}
    optimizer: dict[str, Any] | None = None
    if kind == "ablated":
        result = graph.ablate(traced, widths=widths, generator=generator)
        optimizer, note = collapsing.carried_optimizer(done.source.run, done.epoch, original, result)
    else:
        torch.manual_seed(seed)
        fresh = build(original.spec)
        result = graph.reinitialize(fresh, original.example_inputs, widths, generator=generator)
        note = "untrained, the optimizer starts cold"
    return Ready(
        source=done.source,
        epoch=0 if kind == "scratch-full" else done.epoch,
        agent_steps=0 if kind == "scratch-full" else done.agent_steps,
        policy=result.policy,
        spec=done.spec,
        optimizer=optimizer,
        provenance={**done.provenance, "control": kind},
        text=f"{kind} control at the widths of {done.folder.path}: {note}",
    )
