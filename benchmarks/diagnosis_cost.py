"""What looking costs: CPU seconds of --diagnose's companion, in parts of those of training beside it.

    python benchmarks/diagnosis_cost.py    # some minutes: BeamRider at its own settings, a few epochs

Every epoch is timed in two parts of one run, training and companion, by CPU seconds of the process and of
its workers; so nothing else on the machine comes between them. At a checkpoint fibers are counted, too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

OUT = Path(__file__).resolve().parent / "diagnosis_cost.json"


def cpu() -> float:
    """Seconds of this process and of its living children."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = time.process_time()
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def measure(env: str, epochs: int, every: int) -> dict[str, Any]:
    from pufferlib_kcore import settings
    from pufferlib_kcore.jobs import training
    from pufferlib_kcore.jobs.commands import Home
    from pufferlib_kcore.training.diagnosing import Diagnosing

    spent: list[float] = []
    after = Diagnosing.after

    def timed(self: Any, epoch: Any) -> Any:
        began = cpu()
        said = after(self, epoch)
        spent.append(cpu() - began)
        return said

    Diagnosing.after = timed  # type: ignore[method-assign]
    resolved = settings.resolve(env, {"diagnose.on": "True", "train.checkpoint_interval": str(every)})
    steps = resolved.train.batch_size * epochs
    resolved = settings.resolve(
        env,
        {"diagnose.on": "True", "train.checkpoint_interval": str(every), "train.total_timesteps": str(steps)},
    )
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(data_dir=folder, layout="experiments", vec="multiprocessing")
        request = training.TrainRequest(settings=resolved, home=home, root=folder)
        log = training.Run.log
        training.Run.log = lambda run, record: (ends.append(cpu()), log(run, record))[1]  # type: ignore[method-assign]
        training.train(request)
        training.Run.log = log  # type: ignore[method-assign]
    whole = np.diff(ends)
    looks = np.array(spent[1:])
    parts = looks / (whole - looks)
    plain = [i for i in range(len(looks)) if (i + 2) % every]
    return {
        "env": env,
        "batch_size": resolved.train.batch_size,
        "epochs": len(looks),
        "training_cpu_seconds": float(np.median(whole - looks)),
        "look_cpu_seconds": float(np.median(looks[plain])),
        "at_checkpoints_cpu_seconds": float(np.median(np.delete(looks, plain)))
        if len(plain) < len(looks)
        else None,
        "part": float(looks.sum() / (whole - looks).sum()),
        "part_of_each_epoch": [round(float(p), 4) for p in parts],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="beam_rider")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--every", type=int, default=3, help="epochs from checkpoint to checkpoint")
    args = parser.parse_args()
    found = measure(args.env, args.epochs, args.every)
    print(json.dumps(found, indent=1))
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
