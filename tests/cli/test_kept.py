"""A collapse that a run started from stays as it is; what nobody started from is made anew."""

from dataclasses import replace

import pytest

from pufferlib_kcore import cli, store
from pufferlib_kcore.store import checkpoints

TRAIN = (
    "--vec serial --train.num-envs 4 --train.batch-size 128 --train.minibatch-size 128 "
    "--train.bptt-horizon 8 --train.update-epochs 1 --train.checkpoint-interval 1"
).split()
PLAIN = "collapsed_model_thr_10_000002"


@pytest.fixture
def demo(tmp_path, capsys):
    """demo(words) -> stdout of a command that succeeds, beside a run `base` of two epochs"""

    def command(words):
        capsys.readouterr()
        few = ["--collapse.calibrate", "32"] if "--collapse" in words else []
        common = TRAIN[:4] if "--mode collapse" in words else TRAIN
        assert cli.main([*words.split(), *common, *few, "--train.data-dir", str(tmp_path)]) == 0
        return capsys.readouterr().out

    command("--env cartpole --exp-id base --train.total-timesteps 256")
    return command


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


AGAIN = "--exp-id base --collapse 1 --train.total-timesteps 384"


@pytest.mark.parametrize(
    "other, said",
    [
        ("--collapse.round-to 8", "round_to = 1, here 8"),
        ("--collapse.distill 2", "distill = None, here 2"),
        ("--seed 5", "seed = 1, here 5"),
        ("--env.max-episode-steps 9", "recorded with env ="),
    ],
)
def test_another_collapse_of_that_name_gets_a_number_and_is_found_again(other, said, demo, tmp_path):
    demo(AGAIN)
    first = contents(tmp_path / "base" / PLAIN)
    out = demo(f"{AGAIN} {other}")
    assert f"{PLAIN} is kept" in out and said in out and f"{PLAIN}_2/model_000002_collapsed.pt" in out
    assert {path: path.read_bytes() for path in first} == first
    (run,) = store.CollapseFolder(tmp_path / "base" / f"{PLAIN}_2").runs()
    assert run.exp_id == f"base/{PLAIN}_2/{run.path.name}" and store.find_run(tmp_path, run.path.name) == run
    assert run.config()["collapse"]["digest"] == checkpoints.digest(tmp_path / "base/model_000002.pt")
    second = contents(tmp_path / "base" / f"{PLAIN}_2")
    assert "collapsed before" in demo(f"{AGAIN} {other}")
    assert {path: path.read_bytes() for path in second} == second
    assert len(store.Run(tmp_path / "base").collapses()) == 2


def test_the_same_again_trains_from_the_same_file(demo, tmp_path):
    demo(AGAIN)
    made = contents(tmp_path / "base" / PLAIN)
    for same in ("", "--collapse-epoch 2", "--train.learning-rate 1e-4"):
        out = demo(f"{AGAIN} {same}")
        assert "collapsed before" in out and "515 -> " in out
    assert {path: path.read_bytes() for path in made} == made
    assert len(store.CollapseFolder(tmp_path / "base" / PLAIN).runs()) == 4


def test_what_nobody_started_from_is_made_anew_under_its_plain_name(demo, tmp_path):
    collapse = "--mode collapse --exp-id base --collapse 1"
    demo(collapse)
    demo(f"{collapse} --collapse.round-to 8")
    (folder,) = store.Run(tmp_path / "base").collapses()
    assert folder.path.name == PLAIN
    assert store.ModelFile.load(folder.model_path).collapse["settings"]["round_to"] == 8


def test_a_changed_checkpoint_does_not_take_the_place_of_what_a_run_started_from(demo, tmp_path):
    demo(AGAIN)
    made = contents(tmp_path / "base" / PLAIN)
    path = tmp_path / "base/model_000002.pt"
    file = store.ModelFile.load(path)
    replace(file, state_dict={name: 2 * tensor for name, tensor in file.state_dict.items()}).save(path)
    out = demo(AGAIN)
    assert "model_000002.pt has changed since" in out and f"{PLAIN}_2" in out
    assert {path: path.read_bytes() for path in made} == made


def test_in_mettas_layout_a_retrained_run_keeps_its_collapse(demo, tmp_path):
    metta = "--layout metta --exp-id one --collapse 1"
    demo("--layout metta --run one --env cartpole --train.total-timesteps 256")
    demo(f"{metta} --run again --train.total-timesteps 384")
    made = contents(tmp_path / "one" / PLAIN)
    assert made
    out = demo(f"{metta} --run other --train.total-timesteps 384 --collapse.round-to 8")
    assert f"{PLAIN} is kept: {tmp_path / 'again'} started from it" in out
    assert {path: path.read_bytes() for path in made} == made


def test_in_mettas_layout_retrainings_of_every_seed_and_their_controls_share_one_collapse(demo, tmp_path):
    demo("--layout metta --run one --env cartpole --train.total-timesteps 256")
    demo("--mode collapse --layout metta --exp-id one --collapse 1")
    made = contents(tmp_path / "one" / PLAIN)
    (tmp_path / "one").rename(tmp_path / "moved")
    (tmp_path / "moved/one").rename(tmp_path / "moved/moved")
    retrain = "--layout metta --exp-id moved --collapse 1 --train.total-timesteps 384 --run"
    for words in ("a --seed 2", "b --seed 3", "c --seed 2 --control ablated", "d --seed 2 --control scratch"):
        assert "collapsed before" in demo(f"{retrain} {words}") or "control" in words
        assert [path.name for path in (tmp_path / "moved").glob("collapsed_*")] == [PLAIN]
    now = {
        tmp_path / "one" / PLAIN / path.name: path.read_bytes()
        for path in (tmp_path / "moved" / PLAIN).iterdir()
    }
    assert now == made


def test_where_nothing_merged_text_and_log_say_so_and_the_guides_command_succeeds(demo, tmp_path):
    out = demo("--env cartpole --collapse 0 --train.total-timesteps 384")
    assert "NOTHING MERGED: none of 64 units at threshold 0" in out and "merged=0 of 64" in out
    (folder,) = store.Run(tmp_path / "base").collapses()
    assert folder.path.name == "collapsed_model_thr_00_000002"
    log = (folder.runs()[0].path / "log_collapsed.out").read_text()
    assert "merged=0 of 64" in log.splitlines()[0] and "epoch=3" in log
    out = demo("--mode collapse --env cartpole --collapse 1")
    assert "NOTHING MERGED" not in out
