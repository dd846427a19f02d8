"""Collapse: a run's checkpoint to a smaller policy, its optimizer's state carried along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pufferlib_kcore import graph, store
from pufferlib_kcore.cli import world as worlds
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.settings import Args
from pufferlib_kcore.store import checkpoints, fibers, names, runs


@dataclass(frozen=True)
class Collapsed:
    """A collapse that stands on disk."""

    source: runs.Run
    folder: runs.CollapseFolder
    epoch: int
    agent_steps: int
    policy: nn.Module
    spec: dict[str, Any]
    optimizer: dict[str, Any] | None
    provenance: dict[str, Any]
    text: str  # what was done, for people


def run(args: Args) -> int:
    """--mode collapse"""
    print(collapse_run(args).text)
    return 0


def source_run(args: Args) -> runs.Run:
    """The run that --exp-id names, else the newest of the env."""
    data_dir = args.settings.train.data_dir
    if args.exp_id is not None:
        return store.find_run(data_dir, args.exp_id)
    if args.settings.base.env_name is None:
        raise UserError("which run? name it with --exp-id, or its environment with --env")
    return store.newest_run(data_dir, args.settings.base.env_name)


def thresholds_of(args: Args) -> float | dict[str, float]:
    """One cosine distance where all kinds share it, else one a kind."""
    by_kind = args.settings.collapse.thresholds()
    return next(iter(by_kind.values())) if len(set(by_kind.values())) == 1 else by_kind


def collapse_run(args: Args) -> Collapsed:
    """Collapse a checkpoint and write the smaller policy, its optimizer state and fibers.pkl beside it."""
    source, asked = source_run(args), args.settings.collapse.epoch
    epoch, path = source.nearest(asked)
    restored = worlds.restored(path, args)
    thresholds = thresholds_of(args)
    result = graph.collapse(restored.policy, restored.example_inputs, thresholds)
    optimizer, note = carried_optimizer(source, epoch, restored, result)

    folder = source.collapse_folder(thresholds, epoch)
    folder.path.mkdir(parents=True, exist_ok=True)
    provenance = {
        "source": str(path),
        "epoch": epoch,
        "agent_steps": restored.payload["agent_steps"],
        "thresholds": thresholds,
        "tag": names.threshold_tag(thresholds) if isinstance(thresholds, dict) else f"{thresholds:g}",
        "params_before": result.report.params_before,
        "params_after": result.report.params_after,
    }
    write(folder, restored, result, optimizer, provenance)
    nearest = "" if epoch == asked else f" (no model_{asked:06d}.pt: the nearest epoch is {epoch})"
    text = f"collapsing {path}{nearest}\n{result.report}\n{note}\nwrote {folder.model_path}"
    return Collapsed(
        source,
        folder,
        epoch,
        restored.payload["agent_steps"],
        result.policy,
        restored.spec,
        optimizer,
        provenance,
        text,
    )


def carried_optimizer(source: runs.Run, epoch: int, restored: Restored, result) -> tuple[dict | None, str]:
    """The optimizer's state for the smaller policy, by the dual map; None, and why, where there is none."""
    path = source.state_path(epoch)
    if not path.is_file():
        return None, f"no {path.name} beside the checkpoint: the optimizer starts cold"
    state = checkpoints.load(path, format=checkpoints.STATE)
    mapped = graph.collapse_optimizer(state["optimizer"], result, policy=restored.policy)
    return mapped, "the optimizer's state is carried over"


def write(
    folder: runs.CollapseFolder, restored: Restored, result, optimizer, provenance: dict[str, Any]
) -> None:
    """model_<epoch>_collapsed.pt, its .state.pt, and fibers.pkl."""
    weights = {name: t.detach().cpu().contiguous() for name, t in result.policy.state_dict().items()}
    shapes = {name: list(t.shape) for name, t in weights.items()}
    payload = {**restored.payload, "state_dict": weights, "shapes": shapes, "collapse": provenance}
    if optimizer is not None:
        checkpoints.save(
            folder.state_path,
            {
                "format": checkpoints.STATE,
                "version": checkpoints.VERSION,
                "optimizer": optimizer,
                "epoch": restored.payload["epoch"],
                "agent_steps": restored.payload["agent_steps"],
            },
        )
    else:
        folder.state_path.unlink(missing_ok=True)
    fibers.save_fibers(folder.fibers_path, fiber_file(result, provenance))
    checkpoints.save(folder.model_path, payload)


def fiber_file(result, provenance: dict[str, Any]) -> dict[str, Any]:
    """What fibers.pkl holds."""
    sizes = {row["space"]: row for row in result.report.rows}
    spaces = {
        name: {
            "kind": result.kinds[name],
            "labels": labels,
            "units": len(labels),
            "fibers": int(labels.max()) + 1,
            "reason": result.reasons.get(name),
            **{key: sizes[name][key] for key in ("params_before", "params_after")},
        }
        for name, labels in result.fibers.items()
    }
    return {"epoch": provenance["epoch"], "thresholds": provenance["thresholds"], "spaces": spaces}
