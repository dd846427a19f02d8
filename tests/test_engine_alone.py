"""The engine needs torch, NumPy and SciPy: it runs where nothing else that we depend on can be imported."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "engine_alone.py"
ABSENT = (
    "pufferlib gymnasium gym ale_py matplotlib jinja2 rich rich_argparse threadpoolctl tensorboard omegaconf "
    "psutil pandas sklearn mujoco stable_baselines3 sb3_contrib cv2 PIL"
).split()
HIDE = f"import sys, runpy; sys.modules.update(dict.fromkeys({ABSENT!r}))"
RUN = f"{HIDE}; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"


def test_traces_colors_collapses_lifts_searches_diagnoses_and_breaks_symmetry(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "the engine alone: ok" in done.stdout
