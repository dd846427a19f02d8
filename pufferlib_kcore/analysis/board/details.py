"""Details: all that the board shows of one run, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pufferlib_kcore.analysis.board.index import Found, plain, read_lines
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import FiberHistory, Run
from pufferlib_kcore.store.forks import ForkFolder, read_json
from pufferlib_kcore.store.lab import LabFolder

POINTS = 600  # of a curve, at most
LOG_LINES = 200  # the last ones
LOGS = ("log_collapsed.out", "log.out", "log.txt")
HIDDEN = ("wall_time", "uptime")


def details(one: Found) -> dict[str, Any]:
    """Of a run, a forking experiment or a lab's; what is damaged is told in `trouble`, the rest is there."""
    found: dict[str, Any] = {"trouble": []}
    for name, read in PARTS[one.kind].items():
        try:
            found[name] = read(one)
        except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            found["trouble"].append(f"{name}: {error}")
    return found


def metrics(one: Found) -> dict[str, Any]:
    """Columns over steps, thinned to POINTS."""
    records = one.layout(one.path).metrics()
    kept = records[:: max(1, -(-len(records) // POINTS))]
    if records and kept[-1] is not records[-1]:
        kept.append(records[-1])
    names = [n for n in dict.fromkeys(n for r in kept for n in r) if n not in HIDDEN]
    columns = {name: [plain(r.get(name)) for r in kept] for name in names}
    return {name: column for name, column in columns.items() if any(x is not None for x in column)}


def fibers(one: Found) -> dict[str, Any] | None:
    path = one.layout(one.path).history_path
    if not path.is_file():
        return None
    history = FiberHistory.of(path)
    return {
        "epochs": history.epochs.tolist(),
        "params": [plain(x) for x in history.params],
        "params_collapsed": [plain(x) for x in history.params_collapsed],
        "spaces": {
            name: {
                "kind": space.kind,
                "units": [plain(x) for x in space.units],
                "fibers": [plain(x) for x in space.fibers],
            }
            for name, space in history.spaces.items()
        },
    }


def findings(one: Found) -> list[dict[str, Any]]:
    return read_lines(one.layout(one.path).findings_path)


def run_lines(one: Found) -> list[dict[str, Any]]:
    """Interpolations: to the collapse, and between forks' children."""
    run, found = Run(one.path), []
    if run.lines_path.is_file():
        for line in read_json(run.lines_path).get("lines", []):
            name = " to ".join(str(line[k]) for k in ("from", "to") if k in line)
            found.append({"name": name or "line", "places": places(line), "barrier": line.get("barrier")})
    folder = one.path / "connectivity"
    return found + (lines_of(ForkFolder(folder, folder)) if folder.is_dir() else [])


def lines_of(folder: ForkFolder) -> list[dict[str, Any]]:
    return [
        {
            "name": f"fork {fork['fork_id']} at {fork['fork_point']:.0%}",
            "places": places(fork),
            "barrier": fork.get("barrier"),
        }
        for fork in folder.forks()
    ]


def places(line: Mapping[str, Any]) -> dict[str, list[float | None]]:
    got = line.get("interpolation") or []
    return {name: [plain(p.get(name)) for p in got] for name in ("alpha", "mean_reward", "std_reward")}


def settings(one: Found) -> dict[str, str]:
    """train.gamma -> 0.99"""
    held = one.layout(one.path).config()
    told = {"git_commit": held.get("git_commit"), **(held.get("versions") or {})}
    flat = flattened(held.get("settings") or {})
    return {**flat, **{f"made with.{k}": str(v) for k, v in told.items() if v is not None}}


def flattened(held: Any, above: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in held.items():
        name = f"{above}.{key}" if above else str(key)
        found |= flattened(value, name) if isinstance(value, dict) else {name: str(value)}
    return found


def log(one: Found) -> str:
    path = next((one.path / name for name in LOGS if (one.path / name).is_file()), None)
    if path is None:
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 200 * LOG_LINES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-LOG_LINES:])


def pictures(one: Found) -> list[str]:
    """Names of the PNG files that `picture` finds."""
    return [path.relative_to(one.path).as_posix() for path in picture_files(one)]


def picture_files(one: Found) -> list[Path]:
    found = [
        *one.path.glob("*.png"),
        *one.path.glob("visualizations/*.png"),
        *one.path.glob("*/fork_analysis/*.png"),
    ]
    return sorted(p for p in {*found, *one.path.glob("fork_analysis/*.png")} if not p.is_symlink())


def fork_metrics(one: Found) -> dict[str, Any]:
    seen = ForkFolder.open(one.path).evaluations()
    return {
        "agent_steps": [plain(e["step"]) for e in seen],
        "episode_return": [plain(e["mean_reward"]) for e in seen],
    }


def fork_lines(one: Found) -> list[dict[str, Any]]:
    return lines_of(ForkFolder.open(one.path))


def fork_settings(one: Found) -> dict[str, str]:
    return flattened(ForkFolder.open(one.path).config().get("settings", {}))


def lab_report(one: Found) -> str:
    path = LabFolder(one.path).report_path
    return path.read_text(errors="replace") if path.is_file() else ""


def lab_curves(one: Found) -> list[dict[str, Any]]:
    """A curve a seed: the return that is meant at its checkpoints."""
    return [
        {
            "name": f"seed {seed['seed']}",
            "steps": [place["steps"] for place in seed["curve"]],
            "returns": [plain(place["true_return"]) for place in seed["curve"]],
        }
        for seed in LabFolder(one.path).result()["seeds"]
    ]


def lab_findings(one: Found) -> list[dict[str, Any]]:
    seeds = LabFolder(one.path).result()["seeds"]
    return [{"seed": seed["seed"], **f} for seed in seeds for f in seed["findings"]]


def lab_settings(one: Found) -> dict[str, str]:
    return flattened(LabFolder(one.path).result()["protocol"])


PARTS: dict[str, dict[str, Any]] = {
    "run": {
        "metrics": metrics,
        "fibers": fibers,
        "findings": findings,
        "lines": run_lines,
        "settings": settings,
        "log": log,
        "pictures": pictures,
    },
    "fork": {
        "metrics": fork_metrics,
        "lines": fork_lines,
        "settings": fork_settings,
        "pictures": pictures,
    },
    "lab": {
        "report": lab_report,
        "curves": lab_curves,
        "findings": lab_findings,
        "settings": lab_settings,
        "log": log,
        "pictures": pictures,
    },
}
