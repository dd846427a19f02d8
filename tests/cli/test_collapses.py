"""A collapse that a run started from stays as it is; what nobody started from is made anew."""

import pytest

from pufferlib_kcore import cli, store

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


def test_the_same_again_trains_from_the_same_file_and_another_gets_a_number(demo, tmp_path):
    demo(AGAIN)
    made = contents(tmp_path / "base" / PLAIN)
    out = demo(f"{AGAIN} --collapse-epoch 2 --train.learning-rate 1e-4")
    assert "collapsed before" in out and "515 -> " in out
    assert {path: path.read_bytes() for path in made} == made
    assert len(store.CollapseFolder(tmp_path / "base" / PLAIN).runs()) == 2
    out = demo(f"{AGAIN} --collapse.round-to 8")
    assert f"{PLAIN} is kept" in out and "round_to = 1, here 8" in out
    (run,) = store.CollapseFolder(tmp_path / "base" / f"{PLAIN}_2").runs()
    assert run.exp_id == f"base/{PLAIN}_2/{run.path.name}"
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


def test_where_nothing_merged_text_and_log_say_so_and_the_guides_command_succeeds(demo, tmp_path):
    out = demo("--env cartpole --collapse 0 --train.total-timesteps 384")
    assert "NOTHING MERGED: none of 64 units at threshold 0" in out and "merged=0 of 64" in out
    (folder,) = store.Run(tmp_path / "base").collapses()
    assert folder.path.name == "collapsed_model_thr_00_000002"
    log = (folder.runs()[0].path / "log_collapsed.out").read_text()
    assert "merged=0 of 64" in log.splitlines()[0] and "epoch=3" in log
    out = demo("--mode collapse --env cartpole --collapse 1")
    assert "NOTHING MERGED" not in out
