"""A process that collapses loads neither torch's compiler nor what draws figures."""

import subprocess
import sys
from pathlib import Path

from pufferlib_kcore.cli import main

REPO = Path(__file__).resolve().parents[2]
HEAVY = {"torch._dynamo", "torch.utils.flop_counter", "sympy", "matplotlib", "ray", "tensorboard", "pandas"}
SMALL = "--vec serial --env cartpole --train.num-envs 4 --train.batch-size 256 --train.minibatch-size 128"


def test_the_collapse_mode_is_light(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--mode", "train", *SMALL.split(), "--train.total-timesteps", "256"]) == 0
    code = f"""
import runpy, sys
sys.path.insert(0, {str(REPO)!r})
sys.argv = "demo.py --mode collapse --env cartpole --collapse 1.0 --collapse.calibrate 64".split()
try:
    runpy.run_path({str(REPO / "demo.py")!r}, run_name="__main__")
finally:
    print("loaded", sorted({HEAVY} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "MACs on the example inputs" in done.stdout, done.stderr
    assert done.stdout.endswith("loaded []\n")
