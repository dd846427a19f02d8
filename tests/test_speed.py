"""The benchmark of speed: torchrun's processes share environments and cores evenly; old results show."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import speed


@pytest.mark.parametrize(
    ("cores", "shared"),
    [(1, {1: 1}), (3, {1: 3, 2: 1}), (4, {1: 4, 2: 2, 4: 1}), (64, {1: 64, 2: 32, 4: 16, 8: 8, 16: 4})],
)
def test_each_number_of_processes_that_divides_the_environments_takes_part(cores, shared, monkeypatch):
    monkeypatch.setattr(speed, "available_cores", lambda: cores)
    found = {}
    for name, entrant in speed.entrants(None).items():
        if entrant.processes is not None:
            (options,) = entrant.settings.values()
            found[entrant.processes] = int(options[options.index("--train.threads") + 1])
            assert name == f"ours-torchrun-{entrant.processes}"
    assert found == shared


def test_what_was_measured_before_still_shows(tmp_path, capsys):
    shutil.copy(speed.REPO / "benchmarks/speed/speed.json", tmp_path)
    speed.show(tmp_path)
    said = capsys.readouterr().out
    for rows in json.loads((tmp_path / "speed.json").read_text())["trainers"]["update_epochs"].values():
        assert all(f"| {row['title']} " in said for row in rows.values())
