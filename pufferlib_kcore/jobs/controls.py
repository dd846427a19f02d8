"""Controls: what is trained in place of a collapsed policy, to compare it with."""

from __future__ import annotations

from typing import Any

import torch

from pufferlib_kcore import graph
from pufferlib_kcore.graph.network import network_of
from pufferlib_kcore.graph.rebuild import solve_widths
from pufferlib_kcore.jobs import collapsing, stored
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.collapsing import Collapsed, Ready
from pufferlib_kcore.jobs.progress import Watch, unwatched
from pufferlib_kcore.policies import build
from pufferlib_kcore.policies.restore import restore
from pufferlib_kcore.settings import Args
from pufferlib_kcore.store import Run


def retraining(args: Args, source: Run, watch: Watch = unwatched) -> Ready:
    """The collapsed policy, or the control that --control names, both ready to train on."""
    if args.control == "original":
        return untouched(args, source)
    done = collapsing.stored_or_made(args, source, watch)
    return done if args.control is None else same_widths(args, done, args.control)


def untouched(args: Args, source: Run) -> Ready:
    """The checkpoint as it is."""
    epoch, path = source.nearest(args.settings.collapse.epoch)
    restored = worlds.restored(path, args, source)
    params = sum(p.numel() for p in restored.policy.parameters())
    size = {"params_before": params, "params_after": params}
    provenance = {"source": str(path), "epoch": epoch, "thresholds": None, "tag": "original", **size}
    optimizer, note = collapsing.stored_optimizer(source, epoch)
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


def same_widths(args: Args, done: Collapsed, kind: str) -> Ready:
    """A policy of the collapsed one's widths, drawn with --seed.

    ablated  units of the original at random, as they are, with their part of the optimizer's state
    scratch  untrained, the optimizer cold; epoch and steps go on from the checkpoint, so that it trains as
             long as the collapsed policy is retrained, at the same learning rates
    scratch-full  the same from step 0 on, so that it trains for all the steps that went into the collapsed
             policy, before and after
    """
    original, seed = restore(done.provenance["source"]), stored.stored_settings(done.source, args).train.seed
    inputs, generator = original.example_inputs, torch.Generator().manual_seed(seed)
    network = network_of(original.policy, inputs)
    shapes = {name: p.shape for name, p in done.policy.named_parameters()}
    widths = {name: width for name, width in solve_widths(network, shapes).items() if not network[name].whole}
    optimizer: dict[str, Any] | None = None
    if kind == "ablated":
        result = graph.ablate(original.policy, inputs, widths, generator=generator)
        optimizer, note = collapsing.carried_optimizer(done.source, done.epoch, original, result)
    else:
        torch.manual_seed(seed)
        result = graph.reinitialize(build(original.spec), inputs, widths, generator=generator)
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
