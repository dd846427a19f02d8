"""Studies: YAML files over INI files and under the flags, and one sentence for each mistake in them."""

import json
import re
from pathlib import Path

import pytest

from pufferlib_kcore import cli, settings, store
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import layers
from pufferlib_kcore.settings.studies import read_study

STUDY = """
base: {env_name: cartpole, rnn_name: Recurrent}
train:
  num_envs: 4
  batch_size: 128
  minibatch_size: ${train.batch_size}
  bptt_horizon: 8
  learning_rate: 2e-3
  norm_adv: false
  target_kl: null
policy: {hidden_size: 8}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a study and no INI files."""
    monkeypatch.chdir(tmp_path)
    write("study.yaml", STUDY)
    return tmp_path


def write(name, text):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(line, **more):
    return settings.load(line.split(), **more)


def refusal(line, **more):
    with pytest.raises(UserError) as error:
        load(line, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


# Layers


def test_a_study_says_the_same_as_an_ini_file_and_as_flags():
    said = {
        "base.rnn_name": "Recurrent",
        "train.num_envs": 4,
        "train.batch_size": 128,
        "train.minibatch_size": 128,
        "train.bptt_horizon": 8,
        "train.learning_rate": 2e-3,
        "train.norm_adv": False,
        "train.target_kl": None,
        "policy.hidden_size": 8,
    }
    wanted = settings.resolve("cartpole", said)
    assert load("--config study.yaml").settings == wanted
    flags = " ".join(f"--{key} {value}" for key, value in said.items())
    assert load(f"--env cartpole {flags}").settings == wanted
    sections = {}
    for key, value in said.items():
        section, name = key.split(".")
        sections.setdefault(section, []).append(f"{name} = {value}")
    sections["base"] += ["package = classic_control", "env_name = cartpole"]
    write("inis/mine.ini", "\n".join(f"[{name}]\n" + "\n".join(lines) for name, lines in sections.items()))
    assert load("--env cartpole --config inis").settings == wanted


def test_it_comes_over_ini_files_under_words_and_these_under_flags():
    write("config/local/cartpole.ini", "[train]\ngamma = 0.1\nseed = 7\nvf_coef = 0.7\n")
    write("study.yaml", STUDY + "collapse: {epoch: 3}\n")
    write("more.yaml", "defaults: [study.yaml]\ntrain: {gamma: 0.2, ent_coef: 0.2, clip_coef: 0.2}\n")
    found = load("--config more.yaml train.ent-coef=0.3 train.clip_coef=0.3 --train.clip-coef 0.4").settings
    train = found.train
    assert (train.seed, train.vf_coef) == (7, 0.7) and found.collapse.epoch == 3
    assert (train.gamma, train.ent_coef, train.clip_coef) == (0.2, 0.3, 0.4)


def test_words_need_no_file_and_what_stands_for_a_key_follows_them():
    assert load("--env cartpole train.gamma=0.5").settings.train.gamma == 0.5
    assert load("--env cartpole train.gamma=0.5").overrides == {"train.gamma": "0.5"}
    assert load("--env cartpole --train.compile train.gamma=0.5").settings.train.compile is True
    assert (
        load("--env cartpole train.vf_coef=0.3 train.ent_coef=${train.vf_coef}").settings.train.ent_coef
        == 0.3
    )
    train = load("--config study.yaml train.batch_size=256").settings.train
    assert (train.batch_size, train.minibatch_size) == (256, 256)


def test_the_flag_for_an_environment_comes_over_the_files():
    assert load("--config study.yaml").env == "cartpole"
    assert load("--config study.yaml --env acrobot").env == "acrobot"


def test_a_policy_that_a_study_names_takes_its_arguments():
    write("study.yaml", "base: {env_name: pong, policy_name: Fast}\npolicy: {channels: 32}\n")
    assert load("--config study.yaml").settings.policy["channels"] == 32
    assert "unknown" in refusal("--config study.yaml --base.policy-name Default")


def test_a_file_asks_for_no_collapse_and_leaves_out_what_a_mode_does_not_use():
    write("study.yaml", STUDY + "collapse: {threshold: 0.7, calibrate: 64}\n")
    assert load("--config study.yaml").collapse is None
    assert load("--config study.yaml collapse.threshold=0.6").collapse == 0.6
    args = load("--config study.yaml --mode collapse")
    assert args.collapse == 0.7 and args.settings.collapse.calibrate == 64
    assert "train.learning_rate" not in args.overrides and "policy.hidden_size" not in args.overrides
    assert args.settings.train.learning_rate == 2e-3
    for mode in ("eval", "export", "fibers", "report", "autotune", "profile"):
        assert load(f"--config study.yaml --mode {mode}").mode == mode
    assert "--mode eval does not use" in refusal("--config study.yaml --mode eval train.gamma=0.5")


def test_a_study_comes_over_the_settings_of_a_run_that_goes_on():
    plain = settings.resolve("cartpole", {"train.gamma": 0.6, "train.seed": 9}).to_plain()
    write("study.yaml", "train: {gamma: 0.7}\n")
    args = load("--exp-id x --resume --config study.yaml", stored=lambda args: plain)
    assert (args.settings.train.gamma, args.settings.train.seed) == (0.7, 9)
    assert args.overrides == {"train.gamma": "0.7"}
    write("study.yaml", "env: {frameskip: 3}\n")  # which no environment of that run has
    said = refusal("--exp-id x --resume --config study.yaml", stored=lambda args: plain)
    assert said.startswith("unknown study.yaml: key 'frameskip' in [env]")


# Defaults


def test_defaults_are_read_first_and_in_order_from_the_folder_of_their_file():
    write("a/one.yaml", "train: {gamma: 0.1, vf_coef: 0.1, ent_coef: 0.1}\n")
    write("a/two.yml", "defaults:\n  - b/three.yaml\ntrain: {vf_coef: 0.2, ent_coef: 0.2}\n")
    write("a/b/three.yaml", "train: {gamma: 0.3, clip_coef: 0.3}\n")
    write(
        "study.yaml",
        "defaults: [a/one.yaml, a/two.yml]\nbase: {env_name: cartpole}\ntrain: {ent_coef: 0.4}\n",
    )
    train = load("--config study.yaml").settings.train
    assert (train.gamma, train.clip_coef, train.vf_coef, train.ent_coef) == (0.3, 0.3, 0.2, 0.4)


def test_a_file_that_two_name_is_read_once_before_both():
    write("common.yaml", "train: {gamma: 0.1, vf_coef: 0.1}\n")
    write("one.yaml", "defaults: [common.yaml]\ntrain: {gamma: 0.2}\n")
    write("two.yaml", "defaults: [common.yaml]\ntrain: {vf_coef: 0.2}\n")
    write("study.yaml", "defaults: [one.yaml, two.yaml]\nbase: {env_name: cartpole}\n")
    train = load("--config study.yaml").settings.train
    assert (train.gamma, train.vf_coef) == (0.2, 0.2)


def test_what_stands_for_a_key_means_the_last_word_on_it_in_any_file():
    write("common.yaml", "train: {batch_size: 1024, minibatch_size: '${train.batch_size}'}\n")
    write("study.yaml", "defaults: [common.yaml]\nbase: {env_name: cartpole}\ntrain: {batch_size: 512}\n")
    assert load("--config study.yaml").settings.train.minibatch_size == 512


# Mistakes

START = "base: {env_name: cartpole}\n"


@pytest.mark.parametrize(
    "text, said",
    [
        ("train: {gama: 0.5}", r"unknown study.yaml: key 'gama' in \[train\]: did you mean gamma\?"),
        ("env: {frameskip: 3}", r"unknown study.yaml: key 'frameskip' in \[env\]"),
        ("trian: {gamma: 0.5}", r"unknown study.yaml: section 'trian': did you mean train\?"),
        ("sweep: {metric: 1}", "unknown study.yaml: section 'sweep'"),
        ("train: {gamma: high}", r"^study.yaml: gamma in \[train\] = 'high': expected a number"),
        ("train: {gamma: 1.5}", r"^study.yaml: gamma in \[train\] = 1.5: expected a number from 0 to 1"),
        ("train: {update_epochs: 2.5}", r"^study.yaml: update_epochs in \[train\] = '2.5': expected a whole"),
        ("train: {gamma: [1, 2]}", r"^study.yaml: gamma in \[train\] = '\[1, 2\]': expected a number"),
        ("train: {gamma: {a: 1}}", r"^study.yaml: gamma in \[train\] = .* expected a number"),
        ("train: {gamma: null}", r"^study.yaml: gamma in \[train\] = 'None': expected a number"),
        ("train: {gamma: ''}", r"^study.yaml: gamma in \[train\] has no value"),
        ("train: {gamma: '???'}", r"^study.yaml: gamma in \[train\]: Missing mandatory value"),
        (
            "policy: {hidden_size: 0}",
            r"^study.yaml: hidden_size in \[policy\] = 0: expected a number at least 1",
        ),
        (
            "train: {gamma: '${train.gamm}'}",
            r"^study.yaml: gamma in \[train\]: Interpolation key 'train.gamm' not",
        ),
        (
            "train: {gamma: '${train.vf_coef}', vf_coef: '${train.gamma}'}",
            r"^study.yaml: .* in \[train\]: .*\$\{train.gamma\} stands for a key",
        ),
        ("train: {gamma: '${train'}", "^cannot read the settings in study.yaml: "),
        ("train: 3", "^study.yaml: train = 3: expected sections of settings"),
        ("train: [3]", r"^study.yaml: train = \[3\]: expected sections of settings"),
        ("defaults: none.yaml", "^study.yaml: defaults = 'none.yaml': expected a list of YAML files"),
        ("defaults: [3]", r"^study.yaml: defaults = \[3\]: expected a list of YAML files"),
        (
            "defaults: [comon.yaml]",
            "defaults name 'comon.yaml', which is no YAML file: did you mean common.yaml",
        ),
        ("defaults: [common.ini]", "defaults name 'common.ini', which is no YAML file"),
        ("defaults: [study.yaml]", "defaults go in a circle: study.yaml -> study.yaml"),
        (
            "defaults: [circle.yaml]",
            "^circle.yaml: its defaults go in a circle: study.yaml -> circle.yaml -> study",
        ),
        ("train: {gamma: 0.5, gamma: 0.6}", "^cannot read the settings in study.yaml: .*duplicate key"),
        ("train: {gamma: 0.5", "^cannot read the settings in study.yaml: "),
        ("\tx: 1", "^cannot read the settings in study.yaml: "),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(text, said):
    write("common.yaml", "train: {seed: 3}\n")
    write("common.ini", "[train]\nseed = 3\n")
    write("circle.yaml", "defaults: [study.yaml]\n")
    write("study.yaml", START + text + "\n")
    assert re.search(said, refusal("--config study.yaml")), refusal("--config study.yaml")


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "3\n"])
def test_a_file_without_sections_says_what_it_should_hold(text):
    write("study.yaml", text)
    assert "expected sections of settings, such as train: {gamma: 0.99}" in refusal(
        "--config study.yaml --env pong"
    )


def test_a_file_that_is_none_is_refused():
    assert refusal("--config none.yaml") == (
        "--config none.yaml: no such file; name a YAML file, or a folder of INI files"
    )
    Path("study.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "cannot read the settings in study.yaml" in refusal("--config study.yaml")
    assert "expected a folder" in refusal("--env pong --config study.yoml")


def test_a_mistake_in_a_file_of_the_defaults_names_that_file():
    write("common.yaml", "train: {gamma: 3, vf_coef: 0.5}\n")
    write("study.yaml", "defaults: [common.yaml]\n" + START)
    assert refusal("--config study.yaml").startswith("common.yaml: gamma in [train] = 3.0: ")
    write("study.yaml", "defaults: [common.yaml]\n" + START + "train: {gamma: 0.3}\n")  # the last word counts
    assert load("--config study.yaml").settings.train.gamma == 0.3


@pytest.mark.parametrize(
    "word, said",
    [
        ("train.gama=0.5", "unknown setting 'train.gama': did you mean --train.gamma?"),
        ("train.gamma=high", "--train.gamma = 'high': expected a number"),
        ("train.gamma=${train.x}", "the command line: gamma in [train]: Interpolation key"),
        ("trian.gamma=0.5", "unknown argument 'trian.gamma=0.5'"),
        ("train.gamma=[1,", "the command line"),
        (
            "--train.gamma 0.5 train.gamma=0.4 --seed 3 train.seed=4",
            "--seed and --train.seed are one setting",
        ),
    ],
)
def test_a_mistake_in_a_word_is_one_sentence(word, said):
    assert said in refusal(f"--env pong {word}")


# Files that are read, and what is left of them


def test_every_shipped_setting_may_stand_in_a_study():
    for env in ("pong", "cartpole"):
        schema = layers.Schema(env)
        held = {}
        for (section, key), setting in schema.keys.items():
            text = setting.text
            held.setdefault(section, {})[key] = None if text == "None" else text
        write("all.yaml", json.dumps(held))
        assert load("--config all.yaml").settings == settings.resolve(env)


def test_without_a_study_nothing_is_said():
    study = read_study(None)
    assert study.layers == () and study.texts == study.words == {}


def test_a_run_keeps_what_a_study_came_to(capsys):
    words = (
        "--config study.yaml --vec serial --exp-id x --train.total-timesteps 128 train.num_workers=1".split()
    )
    assert cli.main(words) == 0, capsys.readouterr().err
    kept = store.Run.open("experiments/x").config()["settings"]
    assert kept == json.loads(json.dumps(load(" ".join(words)).settings.to_plain()))
    assert kept["train"]["minibatch_size"] == 128 and kept["policy"] == {"hidden_size": 8}


def test_help_shows_what_a_study_says(capsys):
    with pytest.raises(SystemExit):
        load("--config study.yaml --help")
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: 128; a whole number at least 1)" in text and "--config PATH" in text


SEED_000 = """
defaults:
  - base: default
env:
  name: CartPole-v1
train:
  total_steps: 200_000
  seed: 42
model:
  type: ppo
  policy_hidden_sizes: [64, 64]
logging:
  backend: tensorboard
"""


def test_a_study_in_others_words_is_ours(tmp_path):
    """The example of a policy collapse project's README, as it stands there."""
    path = tmp_path / "configs/rl/ppo_cartpole.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(SEED_000)
    args = settings.load(["--config", str(path)])
    s = args.settings
    assert (args.env, args.track, args.mode) == ("CartPole-v1", "tensorboard", "train")
    assert (s.train.total_timesteps, s.train.seed) == (200_000, 42)
    assert (s.base.policy_name, s.policy["hidden_sizes"]) == ("Mlp", [64, 64])
    over = ["--trainer.max_steps", "100000", "--env.name", "acrobot", "--seed", "7", "--track", "none"]
    args = settings.load(["--config", str(path), *over])
    assert (args.env, args.track, args.settings.train.total_timesteps) == ("acrobot", None, 100_000)
    assert args.settings.train.seed == 7


def test_defaults_by_group_are_files_beside_it(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/small.yaml").write_text("train: {batch_size: 512}\n")
    path = tmp_path / "study.yaml"
    path.write_text("defaults: [base: small, _self_]\nenv: {id: cartpole}\ntrain: {lr: 0.5}\n")
    args = settings.load(["--config", str(path)])
    assert args.settings.train.batch_size == 512 and args.settings.train.learning_rate == 0.5


@pytest.mark.parametrize(
    "text, said",
    [
        ("model: {type: ppp}", "did you mean ppo"),
        ("model: {type: sac}", "expected ppo"),
        ("model: {policy_hiden_sizes: [3]}", "did you mean policy_hidden_sizes"),
        ("logging: {backend: tensorbord}", "did you mean tensorboard"),
        ("logging: 3", "expected keys and values"),
        ("defaults: [base: tiny]", "base/tiny.yaml"),
        ("defaults: [3]", "a group and a name"),
    ],
)
def test_what_it_means_by_a_word_that_nobody_knows(tmp_path, text, said):
    path = tmp_path / "study.yaml"
    path.write_text(f"{text}\nenv: {{name: cartpole}}\n")
    with pytest.raises(UserError, match=said) as error:
        settings.load(["--config", str(path)])
    assert "study.yaml" in str(error.value)
