"""What lies on disk is not contradicted, falsified or gone on from where it is no number; in this process."""

import json
import shutil

import pytest
import torch

from pufferlib_kcore import cli, settings, store
from pufferlib_kcore.cli.train import train_request
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import stored
from pufferlib_kcore.store import checkpoints

TRAIN = (
    "--mode train --vec serial --train.num-envs 4 --train.batch-size 128 --train.minibatch-size 128 "
    "--train.bptt-horizon 8 --train.update-epochs 1 --train.checkpoint-interval 1"
).split()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run of CartPole and one of Pendulum, three epochs each."""
    root = tmp_path_factory.mktemp("made")
    for env in ("cartpole", "pendulum"):
        words = [
            "--env",
            env,
            "--exp-id",
            env,
            "--train.data-dir",
            str(root),
            "--train.total-timesteps",
            "384",
        ]
        assert cli.main([*TRAIN, *words]) == 0
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture
def demo(root, capsys, monkeypatch):
    """demo(*words) -> (exit status, stdout, stderr) of a command on that copy"""
    monkeypatch.setattr(
        "os.sched_getaffinity", lambda process: {0}
    )  # else fibers are counted in new processes

    def command(*words):
        capsys.readouterr()
        status = cli.main([*words, "--train.data-dir", str(root)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoil(path, number=float("nan")):
    """Write a number over the first of a checkpoint's.  -> its name"""
    payload = torch.load(path, weights_only=True)
    if payload["format"] == checkpoints.STATE:
        payload["optimizer"]["state"][0]["exp_avg"].view(-1)[0] = number
        name = "state.0.exp_avg"
    else:
        name, tensor = next(iter(payload["state_dict"].items()))
        tensor.view(-1)[0] = number
    torch.save(payload, path)
    return name


MODES = ("eval", "collapse", "fibers", "export", "report")
GO_ON = [*TRAIN, "--exp-id", "cartpole", "--train.total-timesteps", "512"]


@pytest.mark.parametrize(
    "command", [*([("--mode", mode, "--exp-id", "cartpole")] for mode in MODES), [GO_ON]]
)
def test_another_environment_than_a_runs_is_refused_in_every_mode(command, demo, root):
    before = contents(root)
    for name in ("pendulum", "Pendulum-v1"):
        status, _, err = demo(*command[0], "--env", name)
        assert status == 2 and len(err.splitlines()) == 1, err
        assert "cartpole was trained on cartpole, not on --env" in err
    assert contents(root) == before


def test_a_run_that_has_saved_nothing_yet_is_not_taken_over_by_another_environment(demo, root):
    run = store.Run.create(root, "cartpole", "young")
    status, _, err = demo(*TRAIN, "--exp-id", "young", "--env", "pendulum", "--train.total-timesteps", "128")
    assert status == 2 and "was trained on cartpole" in err and run.config()["run"]["env"] == "cartpole"


def test_a_new_run_does_not_take_a_folder_in_which_another_process_trains(root):
    run = store.Run.create(root, "cartpole", "young")
    run.write_config({"settings": {}})
    with run.lock(), pytest.raises(UserError, match="in use by"):
        store.Run.create(root, "cartpole", "young")
    assert "settings" in run.config()


@pytest.mark.parametrize("mode", ["eval", "export"])
def test_another_environment_or_policy_than_a_checkpoints_is_refused(mode, demo, root):
    path = str(root / "cartpole/model_000001.pt")
    for words, said in (
        (("--env", "pendulum"), "trained on cartpole"),
        (("--policy.hidden-size", "8", "--trust-checkpoint"), "= 64"),
    ):
        status, _, err = demo("--mode", mode, "--eval-model-path", path, *words)
        assert status == 2 and said in err and len(err.splitlines()) == 1, err


def test_in_mettas_layout_a_run_keeps_its_environment_too(demo, root):
    run = store.MettaFolder.create(root, "cartpole", "young")
    words = ["--layout", "metta", "--run", "young", "--env", "pendulum", "--train.total-timesteps", "128"]
    status, _, err = demo(*TRAIN, *words)
    assert status == 2 and "was trained on cartpole" in err and run.config()["run"]["env"] == "cartpole"


def test_two_names_of_one_environment_do_not_contradict():
    assert stored.same_env("cartpole", "CartPole-v1") and stored.same_env("mine", "mine")
    assert not stored.same_env("cartpole", "pendulum") and not stored.same_env("mine", "cartpole")


def test_a_folder_whose_name_only_looks_like_an_environments_contradicts_nothing(root, tmp_path):
    shutil.copytree(root / "cartpole", root / "exp-0123abcd")
    (root / "exp-0123abcd/config.json").unlink()
    assert stored.env_of(store.Run(root / "exp-0123abcd")) is None


@pytest.mark.parametrize("command", [*([("--mode", mode, "--exp-id", "mixed")] for mode in MODES), [GO_ON]])
def test_a_checkpoint_of_another_environment_in_a_runs_folder_is_one_sentence(command, demo, root):
    shutil.copytree(root / "cartpole", root / "mixed")
    for end in (".pt", ".state.pt"):
        shutil.copy(root / f"pendulum/model_000003{end}", root / f"mixed/model_000009{end}")
    words = ["mixed" if word == "cartpole" else word for word in command[0]]
    words += ["--collapse-epoch", "9"] if "collapse" in words else []
    status, _, err = demo(*words)
    assert status == 2 and len(err.splitlines()) == 1, err
    assert "model_000009.pt was trained on pendulum" in err


@pytest.mark.parametrize(
    "words, said",
    [
        ("--policy.hidden-size 128", "policy.hidden_size = 64"),
        ("--base.rnn-name Recurrent", "base.rnn_name = None"),
        ("--base.policy-name Convolutional", "base.policy_name = Default"),
        ("--rnn.num-layers 2", "rnn.num_layers = 1"),
        ("--policy.hidden-size 64 --base.rnn-name LSTMWrapper", "base.rnn_name = None"),
    ],
)
def test_another_architecture_than_a_runs_is_refused_by_name_and_nothing_is_written(words, said, demo, root):
    before = contents(root)
    for command in (
        GO_ON,
        [*GO_ON, "--resume"],
        [*GO_ON, "--collapse", "0.3"],
        ["--mode", "fibers", *GO_ON[-4:-2], "--trust-checkpoint"],
    ):
        status, _, err = demo(*command, *words.split())
        option = words.split()[-2]
        assert status == 2 and len(err.splitlines()) == 1, err
        assert said in err and f"{option} {words.split()[-1]} is asked for" in err
    assert contents(root) == before


def test_the_same_architecture_in_other_words_goes_on_and_what_changed_is_on_record(demo, root):
    words = (
        "--policy.hidden-size 64 --base.policy-name Default --base.rnn-name None --rnn.num-layers 1".split()
    )
    assert demo(*GO_ON, *words, "--train.learning-rate", "5e-4")[0] == 0
    config = store.Run(root / "cartpole").config()
    (change,) = config["changes"]
    assert change["after_epoch"] == 3
    assert change["settings"]["train.learning_rate"] == {"before": 1e-3, "now": 5e-4}
    assert config["settings"]["train"]["learning_rate"] == 5e-4
    assert demo(*GO_ON, "--train.learning-rate", "5e-4")[0] == 2  # nothing is left to train
    assert store.Run(root / "cartpole").config() == config


def test_settings_that_would_build_another_policy_give_way_to_the_one_that_is_trained(root):
    run = store.Run(root / "cartpole")
    config = run.config()
    config["settings"]["policy"]["hidden_size"] = 128  # as an earlier version let it be written
    (run.path / "config.json").write_text(json.dumps(config))
    args = settings.load([*GO_ON, "--train.data-dir", str(root)])
    assert train_request(args).settings.policy == {"hidden_size": 64}
    (run.path / "config.json").unlink()
    args = settings.load(
        [*GO_ON, "--env", "cartpole", "--base.rnn-name", "None", "--train.data-dir", str(root)]
    )
    found = train_request(args).settings
    assert (found.policy, found.base.env_name) == ({"hidden_size": 64}, "cartpole")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_refused_by_file_and_name_in_every_mode(number, demo, root):
    path = root / "cartpole/model_000003.pt"
    name = spoil(path, number)
    before = contents(root)
    for mode in MODES if number != number else ("collapse",):
        unplayed = ["--collapse.calibrate", "0"] if mode == "collapse" else []
        status, _, err = demo("--mode", mode, "--exp-id", "cartpole", *unplayed)
        assert status == 2 and len(err.splitlines()) == 1, err
        assert f"{path}: {name} holds {'NaN' if number != number else 'infinity'} in 1 of its" in err
    assert contents(root) == before


def test_a_damaged_checkpoint_is_named_in_every_mode(demo, root):
    path = root / "cartpole/model_000003.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for mode in MODES:
        status, _, err = demo("--mode", mode, "--exp-id", "cartpole")
        assert status == 2 and len(err.splitlines()) == 1 and f"{path} is damaged" in err, err


def test_a_collapse_does_not_carry_moments_on_that_are_no_numbers(demo, root):
    name = spoil(root / "cartpole/model_000003.state.pt")
    status, _, err = demo("--mode", "collapse", "--exp-id", "cartpole", "--collapse.calibrate", "0")
    assert status == 2 and f"model_000003.state.pt: {name} holds NaN" in err


@pytest.mark.parametrize("end", [".pt", ".state.pt"])
@pytest.mark.parametrize("how", ["nan", "cut", "empty"])
def test_resume_passes_over_what_is_not_good_says_so_and_loses_nothing(end, how, demo, root):
    run = store.Run(root / "cartpole")
    path = run.path / f"model_000003{end}"
    spoil(path) if how == "nan" else path.write_bytes(path.read_bytes()[: 99 if how == "cut" else 0])
    spoiled = path.read_bytes()
    status, out, _ = demo(*GO_ON)
    assert status == 0 and f"passed over: {path}" in out
    assert f"going on from {run.model_path(2)}, the last good checkpoint" in out
    assert [record["epoch"] for record in run.metrics()] == [1, 2, 3, 4]
    assert path.with_name(path.name + ".bad").read_bytes() == spoiled
    assert checkpoints.load(path)["epoch"] == 3


def test_resume_refuses_where_no_checkpoint_is_good(demo, root):
    for _, path in store.Run(root / "cartpole").states():
        spoil(path, float("inf"))
    before = contents(root)
    status, _, err = demo(*GO_ON)
    assert status == 2 and "no checkpoint of" in err and "is good" in err and len(err.splitlines()) == 1
    assert contents(root) == before
