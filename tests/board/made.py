"""Folders of runs made up for the board: no training, the files that a run leaves."""

import json
from pathlib import Path

import numpy as np


def run(root, name, *, env="cartpole", seed=0, epochs=40, findings=(), collapse=None, gain=5.0, **settings):
    """A run's folder with config, metrics and findings."""
    path = Path(root) / name
    path.mkdir(parents=True)
    config = {
        "run": {"env": env, "exp_id": name, "created": "2026-01-01T00:00:00+00:00"},
        "settings": {"train": {"seed": seed, "total_timesteps": 1000 * epochs, **settings}, "env": {}},
        "policy": {"name": "Default"},
        "collapse": collapse,
    }
    (path / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)
    for epoch in range(1, epochs + 1):
        grow(path, epoch, float(gain * epoch + rng.normal()))
    for kind, onset in findings:
        with open(path / "findings.jsonl", "a") as file:
            told = dict(kind=kind, severity="high", onset=onset, said=onset, confidence=0.9)
            file.write(json.dumps({**told, "evidence": {"x": 1.0}, "advice": "less", "symptoms": []}) + "\n")
    (path / "log.out").write_text(f"epoch={epochs}\nthe last line of {name}\n")
    return path


def grow(path, epoch, value):
    """One more epoch."""
    with open(path / "metrics.jsonl", "a") as file:
        row = {"epoch": epoch, "agent_steps": 1000 * epoch, "episode_return": value, "entropy": 1 / epoch}
        file.write(json.dumps(row) + "\n")


def fibers(path):
    space = {"kind": "linear", "units": [64, 64], "fibers": [60, 20]}
    held = {
        "epochs": [10, 20],
        "spaces": {"encoder": space},
        "params": [900, 900],
        "params_collapsed": [800, 300],
    }
    (path / "fibers_over_time.json").write_text(json.dumps(held))


def lines(path):
    places = [{"alpha": a, "mean_reward": 100 - 40 * a * (1 - a), "std_reward": 3.0} for a in (0, 0.5, 1)]
    line = {"from": "original", "to": "collapse", "interpolation": places}
    barrier = {"value": 10.0, "low": 5.0, "high": 15.0, "alpha": 0.5}
    (path / "connectivity.json").write_text(json.dumps({"lines": [{**line, "barrier": barrier}]}))


def lab(root, name="shift"):
    path = Path(root) / "lab" / name
    (path / "visualizations").mkdir(parents=True)
    (path / "protocol.yaml").write_text(f"name: {name}\n")
    seed = {"seed": 0, "true_return": 12.0, "findings": [], "curve": [{"steps": 10, "true_return": 3.0}]}
    result = {
        "protocol": {"name": name, "env_type": "career", "agent_type": "dqn"},
        "answer": {"verdict": "held", "why": "so"},
        "seeds": [seed, {**seed, "seed": 1}],
    }
    (path / "result.json").write_text(json.dumps(result))
    (path / "report.md").write_text("# shift\n\n**Held.** so.\n")
    picture = b"\x89PNG\r\n\x1a\n" + b"made up"
    (path / "visualizations" / "heatmap.png").write_bytes(picture)
    return path


def forked(root, name="seed_3_20260101_000000"):
    path = Path(root) / "base" / "Hopper-v5" / "SAC" / name
    (path / "forks").mkdir(parents=True)
    (path / "evaluations").mkdir()
    (path / "config.json").write_text(
        json.dumps({"settings": {"env": "Hopper-v5", "algo": "SAC", "seed": 3}})
    )
    (path / "evaluations" / "step_0.json").write_text(
        json.dumps({"step": 0, "mean_reward": 5.0, "std_reward": 1.0})
    )
    places = [{"alpha": a, "mean_reward": 9.0, "std_reward": 1.0} for a in (0, 1)]
    fork = {"fork_id": 0, "fork_point": 0.5, "interpolation": places, "barrier": None}
    (path / "forks" / "instability_0.json").write_text(json.dumps(fork))
    return path
