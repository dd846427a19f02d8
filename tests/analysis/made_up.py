"""A batch that nobody trained: runs with made-up curves."""

import numpy as np

from pufferlib_kcore.analysis.batch import Entry
from pufferlib_kcore.store import FiberHistory, metrics

ENDS = {"original": 430.0, "collapsed": 400.0, "ablated": 250.0, "scratch": 180.0}
ORIGINAL = 1_180_000  # parameters
BATCH = 30_720  # agent steps an epoch


def runs(
    root,
    settings=(("0.7_0.5_1_0.8", 0.21), ("params0.05", 0.05)),
    seeds=3,
    exps=("t1",),
    epoch=340,
    epochs=60,
    ends=ENDS,
    spread=12.0,
):
    """The entries of a batch below root, each with the logs that its run would have left.

    settings: parts of the parameters kept, by name; seeds: how many; epochs: that each run logs;
    ends: the return that each kind comes to; spread: of the seeds around it.
    """
    rng = np.random.default_rng(0)
    plan = [(exp, "original", "", 1.0) for exp in exps]
    plan += [(exp, kind, *setting) for exp in exps for setting in settings for kind in list(ENDS)[1:]]
    entries = []
    for exp, kind, setting, kept in plan:
        for seed in range(1, seeds + 1):
            end = ends[kind] * kept ** (0.02 if kind == "collapsed" else 0.1) + spread * rng.normal()
            entries.append(entry(root, exp, epoch, kind, setting, seed, kept))
            log(entries[-1].path, 0 if kind == "scratch" else epoch, epochs, end, rng)
    return entries


def entry(root, exp, epoch, kind, setting, seed, kept=1.0, **changed):
    tag = {"collapsed": f"base_{setting}", "original": "original"}.get(kind, f"{kind}_{setting}")
    name = f"{exp}_epoch_{epoch}_{tag}_seed{seed}"
    params = round(ORIGINAL * kept)
    told = {
        **{"name": name, "exp": exp, "epoch": epoch, "kind": kind, "setting": setting, "seed": seed},
        **{"path": root / name, "status": "done", "params": params, "params_original": ORIGINAL},
        **{"log": root / name / "log.out", "seconds": 900 * kept**0.3 + seed},
        **{"peak_bytes": round(1.4e9 + 16 * params), "weights_bytes": 4 * params},
        "latency": {batch: 2e-4 * (1 + batch / 300 * kept) for batch in (1, 64, 1024)},
    }
    return Entry(**{**told, **changed})


def log(path, start, epochs, end, rng):
    """metrics.jsonl and log.out of a run that learns towards a return; every ninth epoch ends no episode."""
    path.mkdir(parents=True)
    (path / "log.out").write_text("epoch=1\n")
    for i in range(1, epochs + 1):
        learned = 60 + (end - 60) * (1 - np.exp(-4 * i / epochs))
        value = None if i % 9 == 0 else learned + 8 * rng.normal()
        steps = {"epoch": start + i, "agent_steps": (start + i) * BATCH}
        metrics.append(path / "metrics.jsonl", {**steps, "episode_return": value, "SPS": 2600.0})


def history(epochs=range(0, 341, 20), spaces=("encoder", "conv", "lstm", "critic")):
    epochs = list(epochs)
    units = {name: 64 * 2**i for i, name in enumerate(spaces)}
    told = {
        "thresholds": 0.3,
        "epochs": epochs,
        "spaces": {
            name: {
                "kind": "linear",
                "units": [n] * len(epochs),
                "fibers": [round(n * np.exp(-i / len(epochs) * (1 + place))) for i in range(len(epochs))],
            }
            for place, (name, n) in enumerate(units.items())
        },
    }
    return FiberHistory.of(told)
