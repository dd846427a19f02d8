"""The plot program, and the notebooks on runs that were really trained."""

import json
from pathlib import Path

import nbclient
import nbformat
import pytest
from commands import REPO

from pufferlib_kcore import cli
from pufferlib_kcore.analysis import plot

SMALL = (
    "--vec serial --env cartpole --train.num-envs 4 --train.batch-size 64 --train.minibatch-size 32 "
    "--train.bptt-horizon 8 --train.update-epochs 1 --train.checkpoint-interval 2 --policy.hidden-size 8 "
    "--train.total-timesteps 640 --diagnose --diagnose.states 16"
).split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs, one of which breaks symmetry."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main([*SMALL, "--exp-id", "plain"]) == 0
        assert cli.main([*SMALL, "--exp-id", "broken", "--break-symmetry", "0.5", "--break.after", "2"]) == 0
        assert (
            cli.main(["--mode", "diagnose", "--exp-id", "plain", "--vec", "serial", "--episodes", "1"]) == 0
        )
    return folder


@pytest.mark.parametrize("name", ["metrics", "ablation", "dynamics"])
def test_the_notebooks_run(trained, name, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    book = nbformat.read(REPO / "notebooks" / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(book, resources={"metadata": {"path": str(trained)}}, timeout=300).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    assert not any(output.output_type == "error" for output in outputs)
    text = "".join(output.get("text", "") for output in outputs)
    assert "plain" in text or "break" in text


def test_run_folders_and_files_are_drawn_and_told(trained, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    Path("theirs.csv").write_text("global_step,charts/episodic_return\n1,2\n2,3\n")
    run = Path("experiments/plain")
    (run / "findings.jsonl").write_text(
        json.dumps({"kind": "no_learning", "severity": "high", "onset": 3}) + "\n"
    )
    assert plot.main(["--input", "experiments/plain", "experiments/broken/", "theirs.csv"]) == 0
    out = capsys.readouterr().out
    assert (run / "plot.png").stat().st_size > 10_000
    assert "no_learning (high) since epoch 3" in out and "effective rank" in out and "theirs" in out


@pytest.mark.parametrize(
    "words, said",
    [
        (["gone"], "cannot read gone"),
        (["."], "has no metrics.jsonl"),
        (["experiments/plain", "--out", "a.gif"], "ends in .png"),
        (["experiments/plain", "--out", "none/a.png"], "cannot write none/a.png"),
    ],
)
def test_mistakes_are_one_sentence(trained, words, said, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    assert plot.main(["--input", *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
