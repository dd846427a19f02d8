"""Recipes: Metta's command line in our words, and one sentence for each mistake in it."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pufferlib_kcore import settings
from pufferlib_kcore.cli import recipes
from pufferlib_kcore.errors import UserError

REPO = Path(__file__).resolve().parents[2]
GUIDE = (
    "./tools/run.py experiments.recipes.arena_basic_easy_shaped.train --args run='exp_name' "
    "--overrides policy_architecture.name='fast' trainer.evaluation.evaluate_interval=0 "
    "trainer.checkpoint.checkpoint_interval=10 trainer.checkpoint.wandb_checkpoint_interval=10 "
    "trainer.evaluation.replay_dir=‘exp_name’ trainer.evaluation.skip_git_check=true"
)


@pytest.fixture(autouse=True)
def everything_is_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(recipes, "is_installed", lambda module: True)
    monkeypatch.chdir(tmp_path)


def command(line):
    return recipes.command_of(shlex.split(line))


def options(line):
    """{"--env": "pong", ...}; every option has one value."""
    argv = command(line).argv
    assert len(set(argv[::2])) == len(argv) / 2
    return dict(zip(argv[::2], argv[1::2], strict=True))


def settled(line):
    """The settings that demo.py makes of it."""
    return settings.load([word for option in options(line).items() for word in option]).settings


def refusal(line):
    with pytest.raises(UserError) as error:
        command(line)
    assert "\n" not in str(error.value)
    return str(error.value)


def overridden(text):
    return settled(f"pong.train --overrides {text}")


def test_the_guides_command_word_for_word():
    script, *words = shlex.split(GUIDE)
    assert os.access(REPO / script, os.X_OK)
    found = recipes.command_of(words)
    assert found.argv == [
        *("--mode", "train", "--layout", "metta", "--run", "exp_name"),
        *("--env", "arena_basic_easy_shaped", "--train.data-dir", "train_dir"),
        *("--base.policy-name", "Fast", "--base.rnn-name", "Recurrent", "--rnn.num-layers", "2"),
        *("--train.checkpoint-interval", "10", "--track", "wandb"),
    ]
    assert found.notes == [
        "trainer.checkpoint.wandb_checkpoint_interval=10: checkpoints stay on disk, W&B gets metrics alone"
    ]


@pytest.mark.parametrize("marks", ["‘’", "“”", "''", '""', "„“"])
def test_quotes_of_any_kind_come_off(marks):
    first, last = marks
    words = ["pong.train", "--args", f"run={first}one{last}", f"{first}seed=3{last}"]
    assert recipes.parse(words) == ("pong.train", {"run": "one", "seed": "3"}, {})


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_makes_settings_that_fit(name):
    found = settled(f"experiments.recipes.{name}.train --args run=one")
    assert found.base.rnn_name == "Recurrent" and found.train.data_dir == "train_dir"


def test_the_recipes_are_kept_by_git():
    listed = subprocess.run(
        ["git", "check-ignore", *recipes.FOLDER.glob("*.ini")], cwd=REPO, capture_output=True, text=True
    )
    assert listed.stdout == "" and len(recipes.names()) >= 6


def test_a_recipe_alone_is_a_run_of_its_name():
    assert options("experiments.recipes.memory_cue.train")["--run"] == "memory_cue"
    assert options("memory_cue.train run=mine")["--run"] == "mine"


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("trainer.total_timesteps=65_536", "total_timesteps", 65_536),
        ("trainer.batch_size=65536", "batch_size", 65_536),
        ("trainer.minibatch_size=2048", "minibatch_size", 2048),
        ("trainer.bptt_horizon=16", "bptt_horizon", 16),
        ("trainer.update_epochs=1", "update_epochs", 1),
        ("trainer.num_workers=3", "num_workers", 3),
        ("trainer.num_envs=32", "num_envs", 32),
        ("trainer.optimizer.learning_rate=3e-4", "learning_rate", 3e-4),
        *(
            (f"trainer.{where}{name}=0.25", name, 0.25)
            for where in ("", "losses.ppo.")
            for name in ("clip_coef", "ent_coef", "gamma", "gae_lambda", "vf_coef")
        ),
        ("trainer.checkpoint.checkpoint_interval=7", "checkpoint_interval", 7),
        ("system.device=cpu", "device", "cpu"),
        ("system.seed=9", "seed", 9),
        ("train.learning_rate=1e-5", "learning_rate", 1e-5),
        ("train.learning-rate=1e-5", "learning_rate", 1e-5),
    ],
)
def test_mettas_names_are_ours(text, key, value):
    assert getattr(overridden(text).train, key) == value
    assert getattr(overridden("system.device=auto").train, key) != value


def test_our_own_names_go_through():
    found = overridden("env.frameskip=2 policy_architecture.name=fast policy.channels=8")
    assert (found.env["frameskip"], found.policy["channels"]) == (2, 8)


@pytest.mark.parametrize("said, name", [("Default", "Default"), ("convolutional", "Convolutional")])
def test_other_policies_by_their_registered_names(said, name):
    found = overridden(f"policy_architecture.name={said}")
    assert (found.base.policy_name, found.rnn["num_layers"]) == (name, 1)


def test_fasts_lstm_has_two_layers_unless_more_are_said():
    for words in (
        "policy_architecture.name=fast rnn.num_layers=3",
        "rnn.num_layers=3 policy_architecture.name=fast",
    ):
        assert overridden(words).rnn["num_layers"] == 3
    assert overridden("policy_architecture.name=FAST").rnn["num_layers"] == 2


def test_a_recipe_that_names_no_environment_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    (tmp_path / "mine.ini").write_text("[train]\ngamma = 0.5\n")
    assert "mine.ini: expected one env_name in [base]" in refusal("mine.train")
    (tmp_path / "mine.ini").write_text(
        "[base]\nenv_name = pong\npolicy_name = Fast\n[policy]\nchannels = 8\n[train]\ngamma = 0.5\n"
    )
    found = settled("experiments.recipes.mine.train")
    assert (found.train.gamma, found.policy["channels"]) == (0.5, 8)
    assert settled("mine.train --overrides policy_architecture.name=policy").policy == {"hidden_size": 512}


def test_overrides_come_over_args_and_these_over_the_recipe():
    line = "cartpole.train --args run=a seed=3 data_dir=here"
    assert (settled(line).train.seed, settled(line).train.data_dir) == (3, "here")
    line += " --overrides system.seed=4 trainer.total_timesteps=2048"
    assert (settled(line).train.seed, settled(line).train.total_timesteps) == (4, 2048)


def test_evaluation_is_off_and_says_so():
    line = "pong.train --overrides trainer.evaluation.evaluate_interval="
    assert command(line + "0").notes == []
    (note,) = command(line + "50").notes
    assert "does not evaluate" in note and "--mode eval" in note


def test_metrics_go_to_wandb_where_it_is_installed(monkeypatch):
    line = "pong.train --args run=one"
    assert options(line)["--track"] == "wandb" and command(line).notes == []
    assert "--track" not in options(line + " wandb=off") and command(line + " wandb=off").notes == []
    monkeypatch.setattr(recipes, "is_installed", lambda module: module != "wandb")
    assert "--track" not in options(line) and "wandb is not installed" in command(line).notes[0]
    assert options(line + " wandb=on")["--track"] == "wandb"  # which demo.py then refuses


def test_a_folder_named_wandb_is_no_package(monkeypatch, tmp_path):
    monkeypatch.undo()
    (tmp_path / "a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("a_folder") and not recipes.is_installed("a_folder")
    assert recipes.is_installed("pytest")


@pytest.mark.parametrize(
    "line, said",
    [
        ("", "no recipe: expected experiments.recipes.NAME.train; recipes that run here: arena_basic"),
        ("pong", "'pong': expected experiments.recipes.NAME.train; recipes that run here: "),
        ("experiments.recipes..train", "expected experiments.recipes.NAME.train"),
        ("experiments/recipes/pong.train", "expected experiments.recipes.NAME.train"),
        ("experiments.recipes.pogn.train", "unknown recipe 'pogn': did you mean pong? recipes that run here"),
        (
            "experiments.recipes.xyzzy.train",
            "'xyzzy': no file experiments/recipes/xyzzy.ini; recipes",
        ),
        ("experiments.recipes.pong.evaluate", "no 'evaluate' here, only train; to play"),
        ("pong.train --args seed=1", "--args names no run: give it one, as in --args run=exp_name"),
        ("pong.train --args", "--args names no run"),
        ("pong.train --args run=", "'run=' after --args: expected name=value, as in --args run=exp_name"),
        ("pong.train --args run=a rum=b", "unknown argument 'rum' after --args: did you mean run?"),
        ("pong.train --args run=a wandb=maybe", "wandb=maybe: expected on or off"),
        ("pong.train --overrides trainer.gamma", "'trainer.gamma' after --overrides: expected name=value"),
        ("pong.train --overide trainer.gamma=1", "unknown argument '--overide': did you mean --overrides?"),
        (
            "pong.train --overrides trainer.learning_rat=1",
            "unknown override 'trainer.learning_rat': did you mean trainer.learning_rate?",
        ),
        (
            "pong.train --overrides trainer.optimiser.learning_rate=1",
            "did you mean trainer.optimizer.learning_rate?",
        ),
        ("pong.train --overrides q=1", "unknown override 'q': expected Metta's"),
        ("pong.train --overrides train.gama=1", "unknown setting 'train.gama': did you mean train.gamma?"),
        ("pong.train --overrides env.n_cues=1", "unknown setting 'env.n_cues'"),
        ("pong.train --overrides base.env_name=breakout", "unknown setting 'base.env_name'"),
        ("pong.train --overrides policy.channels=1", "unknown setting 'policy.channels'"),
        ("pong.train --overrides policy_architecture.name=fats", "did you mean Fast?"),
        (
            "pong.train --overrides trainer.evaluation.evaluate_interval=often",
            "trainer.evaluation.evaluate_interval = 'often': expected a whole number",
        ),
    ],
)
def test_a_mistake_is_one_sentence(line, said):
    assert said in refusal(line)


@pytest.mark.parametrize(
    "override, said",
    [
        ("trainer.batch_size=100", "try trainer.batch_size=512 or 1024"),
        ("trainer.total_timesteps=100", "try trainer.total_timesteps=2048"),
        ("train.gamma=2", "trainer.gamma = 2.0: expected a number from 0 to 1"),
        ("system.device=banana", "system.device = 'banana': expected auto, cpu, cuda or cuda:1"),
        ("system.seed=five", "system.seed = 'five': expected a whole number"),
        ("policy.hidden_size=0", "policy.hidden_size = 0: expected a number at least 1"),
        ("env.max_episode_steps=-1", "env.max_episode_steps = -1: expected a number at least 1"),
        ("trainer.lr=1", "unknown override 'trainer.lr': did you mean trainer.learning_rate?"),
    ],
)
def test_a_mistake_in_a_value_is_told_in_the_words_that_were_typed(override, said, capsys):
    assert recipes.main(["cartpole.train", "--args", "run=a", "--overrides", override]) == 2
    err = capsys.readouterr().err
    assert err.startswith("run.py: ") and said in err and err.count("\n") == 1 and "--" not in err, err


@pytest.mark.parametrize("name", ["x" * 300, "two\nlines"])
def test_a_run_that_no_folder_can_be_called(name, capsys):
    assert recipes.main(["cartpole.train", "--args", f"run={name}"]) == 2
    assert capsys.readouterr().err.startswith("run.py: run = ")


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["cartpole.train", "--help"]])
def test_help_names_recipes_arguments_and_overrides(words, capsys):
    assert recipes.main(words) == 0
    out = capsys.readouterr().out
    assert set(recipes.names()) <= set(out.split()) and set(recipes.ARGS) <= set(out.split())
    assert {name for name, ours in recipes.OVERRIDES.items() if "." in ours} <= set(out.split())


def test_what_is_not_installed_is_said_with_what_runs(monkeypatch):
    monkeypatch.setattr(recipes, "is_installed", lambda module: False)
    said = refusal(GUIDE.removeprefix("./tools/run.py "))
    assert "needs mettagrid" in said and "beam_rider, cartpole, memory_cue, pong" in said
    assert "recipes that run here: beam_rider, cartpole, memory_cue, pong" in refusal("nothing")


@pytest.mark.parametrize("folder", [REPO, REPO / "tools", Path("/")])
def test_the_script_runs_from_any_folder(folder):
    done = subprocess.run(
        [sys.executable, REPO / "tools" / "run.py", "experiments.recipes.pogn.train"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("run.py: unknown recipe 'pogn': did you mean pong?")
    assert done.stderr.count("\n") == 1
