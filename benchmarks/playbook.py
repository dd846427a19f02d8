"""Playbook: failures made with demo.py, what the detectors say of them and when, and what mended them.

    python benchmarks/playbook.py        # ten minutes; goes on; rewrites the page's tables

Each case is two commands that differ in a few words, over three seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pufferlib_kcore.diagnostics.detectors import DETECTORS  # noqa: E402
from pufferlib_kcore.store import Run  # noqa: E402
from pufferlib_kcore.store.metrics import parse  # noqa: E402
from pufferlib_kcore.text import markdown  # noqa: E402

OUT = Path(__file__).resolve().parent / "playbook.jsonl"
PAGE = REPO / "docs" / "failure_playbook.md"
COMMON = "--vec serial --train.threads 1 --diagnose"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Case:
    """env: words that both commands have; wrong: what breaks it; mended: in place of that."""

    env: str
    wrong: str
    mended: str


CARTPOLE = "--env cartpole --train.total-timesteps 80000"
CASES = {
    "no_learning": Case(
        "--env memory_cue --env.delay 3 --train.total-timesteps 100000",
        "--base.rnn-name None",
        "--base.rnn-name Recurrent",
    ),
    "gradient_pathology": Case(
        f"{CARTPOLE} --train.anneal-lr False",
        "--train.learning-rate 1 --train.max-grad-norm 1e9 --train.clip-coef 1e6",
        "--train.learning-rate 1e-3 --train.max-grad-norm 0.5 --train.clip-coef 0.2",
    ),
    "reward_hacking": Case(
        "--env coin_grid --train.total-timesteps 80000", "--env.coin 0.5", "--env.coin 0.02"
    ),
    "nan": Case(
        CARTPOLE, "--train.learning-rate 1e30 --train.max-grad-norm 1e30", "--train.learning-rate 1e-3"
    ),
}


def carried_out(kind: str, which: str, words: str, seed: int) -> dict[str, Any]:
    """One run of demo.py, and what it left."""
    with tempfile.TemporaryDirectory() as folder:
        said = [*words.split(), *COMMON.split(), "--seed", str(seed), "--exp-id", "run"]
        status = demo(folder, "--mode", "train", *said)
        if status == 0:
            demo(folder, "--mode", "diagnose", "--exp-id", "run", "--vec", "serial")
        run = Run(Path(folder) / "experiments" / "run")
        records = run.metrics()
        found = (
            [parse(x) for x in run.findings_path.read_text().splitlines()]
            if run.findings_path.is_file()
            else []
        )
        known = [r for r in records if r.get("episode_return") is not None]
        last = known[-max(1, len(known) // 10) :]
        true = [r["environment/true_return"] for r in last if "environment/true_return" in r]
        return {
            "kind": kind,
            "which": which,
            "seed": seed,
            "status": status,
            "epochs": len(records),
            "return": float(np.mean([r["episode_return"] for r in last])) if last else None,
            "true": float(np.mean(true)) if true else None,
            "findings": [{k: f[k] for k in ("kind", "onset", "said", "symptoms")} for f in found if f],
        }


def demo(folder: str, *words: str) -> int:
    """One command of demo.py, in a folder.  -> its exit status"""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPO / "demo.py"), *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True).returncode


def load() -> list[dict[str, Any]]:
    return [json.loads(line) for line in OUT.read_text().splitlines()] if OUT.is_file() else []


def cells(rows: list[dict[str, Any]], kind: str) -> list[list[Any]]:
    """A row for the run that failed, one for what mended it."""
    found = []
    for which in ("wrong", "mended"):
        own = [r for r in rows if (r["kind"], r["which"]) == (kind, which)]
        hits = [f for r in own for f in r["findings"] if kind in (f["kind"], *f["symptoms"])]
        others = sorted({f["kind"] for r in own for f in r["findings"]} - {kind})
        name = "true" if own and own[0]["true"] is not None else "return"
        values = [r[name] for r in own if r[name] is not None]
        found.append(
            [
                which,
                f"{np.mean(values):.4g} ({', '.join(f'{v:.3g}' for v in values)})" if values else "none",
                f"{len(hits)} of {len(own)}",
                f"{np.median([f['onset'] for f in hits]):.0f}, {np.median([f['said'] for f in hits]):.0f}"
                if hits
                else "",
                f"{np.median([r['epochs'] for r in own]):.0f}" if own else "",
                ", ".join(others) or "none",
            ]
        )
    return found


def rewrite(rows: list[dict[str, Any]]) -> None:
    """Put each case's commands and table into its place in the page."""
    text = PAGE.read_text()
    for kind, case in CASES.items():
        head = [
            "run",
            "return at the end (seeds)",
            "found",
            "began, told (epoch)",
            "epochs",
            "other findings",
        ]
        lines = [
            f"    python demo.py {case.env} {COMMON} {case.wrong}",
            f"    python demo.py {case.env} {COMMON} {case.mended}",
            "",
            *markdown(head, cells(rows, kind)),
        ]
        block = f"<!-- {kind} -->\n" + "\n".join(lines) + f"\n<!-- /{kind} -->"
        text = re.sub(rf"<!-- {kind} -->.*?<!-- /{kind} -->", lambda m: block, text, flags=re.S)  # noqa: B023
    PAGE.write_text(text)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    assert set(CASES) <= set(DETECTORS)
    done = {(r["kind"], r["which"], r["seed"]) for r in load()}
    for kind, case in CASES.items():
        for which in ("wrong", "mended"):
            for seed in SEEDS:
                if (kind, which, seed) not in done:
                    row = carried_out(kind, which, f"{case.env} {getattr(case, which)}", seed)
                    with open(OUT, "a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(
                        {k: row[k] for k in row if k != "findings"},
                        [f["kind"] for f in row["findings"]],
                        flush=True,
                    )
    rewrite(load())


if __name__ == "__main__":
    main()
