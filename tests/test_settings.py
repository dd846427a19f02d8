"""Settings: layers in order, typed values, and one sentence for each mistake."""

import importlib
import json
import re
import shutil
from dataclasses import FrozenInstanceError, dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import pytest

from pufferlib_kcore import settings
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import arguments, layers, sections, studies, uses, values
from pufferlib_kcore.settings.arguments import MODES
from pufferlib_kcore.settings.sections import FIXED, FREE


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch):
    """The config folder as committed, without this machine's own; the current folder has none."""
    copy = tmp_path / "shipped"
    shutil.copytree(layers.SHIPPED, copy, ignore=shutil.ignore_patterns("local"))
    monkeypatch.setattr(layers, "SHIPPED", copy)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return copy


def load(line):
    return settings.load(line.split())


def refusal(line):
    with pytest.raises(UserError) as error:
        load(line)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# What ships


def test_every_shipped_environment_resolves():
    listed = settings.environments()
    control = {"classic_control", "classic_control_continuous", "mujoco"}
    lab = {"career", "cartpole_variant", "gridworld"}
    assert set(listed) == {"atari", *control, *lab, "memory", "mettagrid"}
    for package, names in listed.items():
        for name in names:
            found = settings.resolve(name)
            assert (found.base.package, found.base.env_name) == (package, name)


def test_the_listed_names_are_those_that_can_be_made():
    from pufferlib_kcore import environments

    for package, names in environments.names().items():
        listed = settings.environments()[package]
        assert set(names) <= set(listed)
        for name in listed:
            environments.make_creator(name, package)  # Gymnasium's ids among them


def test_the_listed_arguments_are_those_that_environments_and_policies_take():
    from pufferlib_kcore import environments

    for package, names in settings.environments().items():
        keys = layers.Schema(names[0]).names("env")
        environments.make_creator(names[0], package, **{key: None for key in keys})


def test_every_shipped_setting_says_what_it_means():
    for env in [None, *(names[0] for names in settings.environments().values())]:
        for (section, key), setting in layers.Schema(env).keys.items():
            assert setting.help, f"[{section}] {key} of {env}"


def test_the_default_file_has_exactly_the_fixed_settings():
    shipped = layers.read_layer(layers.SHIPPED / "default.ini").values
    known = {(section, field.name) for section, kind in FIXED.items() for field in fields(kind)}
    assert set(shipped) == known


def declared():
    """Every fixed setting with its declaration: (section, key, type, bounds)"""
    for section, kind in FIXED.items():
        hints = get_type_hints(kind)
        for field in fields(kind):
            yield section, field.name, hints[field.name], field.metadata.get("bounds", values.Bounds())


@pytest.mark.parametrize("env", [None, *(names[0] for names in settings.environments().values())])
def test_every_default_is_of_its_settings_type_and_within_its_bounds(env):
    schema = layers.Schema(env)
    found = settings.resolve(env)
    for section, key, kind, bounds in declared():
        setting = schema.keys[section, key]
        assert (setting.kind, setting.bounds) == (kind, bounds)
        value = getattr(found[section], key)
        assert value == values.read(setting.text, kind, key) == bounds.check(value, key)
        said = values.describe(kind)
        assert value is not None or "None" in said
        assert not isinstance(value, bool) or "True or False" in said


def test_every_number_has_bounds_that_refuse_one_below_them():
    for section, key, kind, bounds in declared():
        if {int, float} & {kind, *getattr(kind, "__args__", ())}:
            below = bounds.low if bounds.above else bounds.low - 1
            with pytest.raises(UserError, match=f"= {below:g}(.0)?: expected a number"):
                settings.resolve("pong", {f"{section}.{key}": below})


def test_beam_rider_is_the_guides_run():
    train = settings.resolve("beam_rider").train
    assert train.total_timesteps == 300 * train.batch_size
    saved = [epoch for epoch in range(1, 301) if epoch % train.checkpoint_interval == 0]
    assert min(saved, key=lambda epoch: abs(epoch - 50)) == 51


def test_the_file_of_an_environment_comes_over_its_package_and_that_over_the_default(shipped):
    files = [shipped / name for name in ("default.ini", "atari/default.ini", "atari/enduro.ini")]
    default, package, own = (layers.read_layer(file).values for file in files)
    for env, said in (("alien", {**default, **package}), ("enduro", {**default, **package, **own})):
        found = settings.resolve(env).to_plain()
        for (section, key), text in said.items():
            if key != "env_name":
                assert found[section].get(key) == values.literal(text), (env, section, key)
    for over, under in ((package, default), (own, package), (own, default)):  # each comes over something
        assert any(over[key] != under[key] for key in over.keys() & under.keys() if key[1] != "env_name")


def test_a_new_section_is_a_dataclass_its_lines_and_a_row_of_uses(monkeypatch, shipped):
    @dataclass(frozen=True, kw_only=True)
    class Diagnosis:
        every: int = sections.within(1)
        names: str | None

    more = [("diagnosis", Diagnosis)]
    made = make_dataclass("More", more, bases=(sections.Settings,), frozen=True, kw_only=True)
    resolving = importlib.import_module("pufferlib_kcore.settings.resolve")  # not the function
    for module in (sections, layers, resolving, arguments, studies):
        for name, value in (
            ("SECTIONS", (*sections.SECTIONS, "diagnosis")),
            ("FIXED", {**FIXED, "diagnosis": Diagnosis}),
            ("Settings", made),
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setitem(uses.USED_BY, "diagnosis", ("train",))
    with open(shipped / "default.ini", "a") as file:
        file.write("[diagnosis]\nevery = 5  # epochs from one to the next\nnames = None  # which\n")
    assert load("--env pong").settings.diagnosis == Diagnosis(every=5, names=None)
    args = load("--env pong --diagnosis.every 3 diagnosis.names=ranks")
    assert args.settings.diagnosis == Diagnosis(every=3, names="ranks")
    assert args.settings.to_plain()["diagnosis"] == {"every": 3, "names": "ranks"}
    assert "--diagnosis.every = 0: expected a number at least 1" in refusal("--env pong --diagnosis.every 0")
    assert "--mode eval does not use" in refusal("--env pong --mode eval --diagnosis.every 3")
    older = settings.resolve("pong").to_plain()
    del older["diagnosis"]
    assert settings.from_plain(older).diagnosis == Diagnosis(every=5, names=None)


@pytest.mark.parametrize("name", sections.RETIRED)
def test_a_retired_setting_is_taken_from_wherever_it_comes_and_read_by_nothing(name, tmp_path):
    section, key = name.split(".")
    wanted = settings.resolve("pong")
    assert key not in wanted.to_plain()[section]
    old = wanted.to_plain()
    old[section][key] = True
    assert settings.from_plain(old) == wanted
    write(Path("config/atari/pong.ini"), f"{PONG}[{section}]\n{key} = True\n")  # as PufferLib's own file says
    write(tmp_path / "study.yaml", f"{section}: {{{key}: true}}")
    for words in (f"--{name} True", f"{name}=true", f"--config {tmp_path / 'study.yaml'}"):
        assert load(f"--env pong {words}").settings == wanted


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        settings.resolve("pong").train.gamma = 0.5


# The user's own files


PONG = "[base]\npackage = atari\nenv_name = pong\n"


def test_a_config_folder_here_comes_over_the_project_s(tmp_path):
    before = settings.resolve("pong").train
    write(Path("config/atari/pong.ini"), f"{PONG}[train]\nlearning_rate = 1e-2\n")
    found = settings.resolve("pong").train
    assert found.learning_rate == 1e-2
    stays = replace(found, learning_rate=before.learning_rate)
    assert stays == before  # what it does not say
    other = write(tmp_path / "other/my_pong.ini", f"{PONG}[train]\nlearning_rate = 1e-3\n").parent
    assert settings.resolve("pong", config=other).train.learning_rate == 1e-3


def test_its_default_comes_over_the_project_s_default_and_under_the_package():
    before = settings.resolve("pong").train
    write(Path("config/default.ini"), "[train]\ngamma = 0.5\nseed = 7\n")
    assert settings.resolve("alien").train.gamma == 0.5
    assert settings.resolve("pong").train == replace(before, seed=7)  # whose own file says gamma


def test_a_new_environment_lists_its_own_arguments():
    write(
        Path("config/mine.ini"),
        "[base]\npackage = mine\nenv_name = corridor maze\n"
        "[env]\nlength = 10  # cells\nwind = 0.0\ngoal = None  # int: its cell\nshape = None\n",
    )
    found = settings.resolve("maze", {"env.length": "12", "env.wind": 1, "env.shape": "(2, 3)"})
    assert found.base.package == "mine"
    assert found.env == {"length": 12, "wind": 1.0, "shape": (2, 3)}  # None leaves the goal out
    assert isinstance(found.env["wind"], float)
    assert "expected a whole number or None" in refusal("--env maze --env.goal north")


def test_what_autotune_found_comes_last():
    others = settings.resolve("breakout")
    path = layers.local_file("pong")  # the user's, also where the package's own settings cannot be written
    write(path, "# measured\n[train]\nnum_workers = 3\n")
    assert path == Path("config/local/pong.ini")
    assert settings.resolve("pong").train.num_workers == 3
    assert settings.resolve("breakout") == others
    write(Path("config/atari/pong.ini"), f"{PONG}[train]\nnum_workers = 5\n")
    assert settings.resolve("pong").train.num_workers == 3
    assert settings.resolve("pong", {"train.num_workers": 2}).train.num_workers == 2


def test_a_file_of_pufferlib_is_read_as_it_stands():
    write(
        Path("config/atari/pong.ini"),
        f"{PONG}[train]\ntotal_timesteps = 7_500_000\nminibatch_size = 4,096\nbatch_size = 65_536\n"
        "[sweep.parameters.train.parameters.batch_size]\ndistribution = uniform\nmin = 16384\n",
    )
    found = settings.resolve("pong").train
    assert (found.total_timesteps, found.minibatch_size) == (7_500_000, 4_096)


def test_a_policys_own_file_lists_its_arguments_instead_of_the_packages():
    found = settings.resolve("pong", {"base.policy_name": "Fast", "policy.channels": "32"})
    listed = layers.read_layer(layers.SHIPPED / "policies/Fast.ini").values
    told = {key: values.literal(text) for (_, key), text in listed.items()} | {"channels": 32}
    assert found.policy == {key: value for key, value in told.items() if value is not None}
    assert settings.from_plain(found.to_plain()) == found
    assert settings.from_plain(found.to_plain(), {"policy.channels": 8}).policy["channels"] == 8
    assert "unknown setting 'policy.channels'" in refusal("--env pong --policy.channels 32")
    assert "did you mean --policy.channels?" in refusal(
        "--env pong --base.policy-name Fast --policy.chanels 3"
    )
    own = settings.resolve("pong").policy
    assert settings.resolve("pong", {"base.policy_name": "Default"}).policy == own != found.policy


def test_a_user_s_policy_may_have_a_file_and_an_environment_may_name_it():
    others = settings.resolve("breakout")
    write(Path("config/policies/Mine.ini"), "[policy]\nwidth = 8  # units\n")
    write(Path("config/atari/pong.ini"), f"{PONG}policy_name = Mine\n[policy]\nwidth = 9\n")
    assert settings.resolve("pong").policy == {"width": 9}
    assert settings.resolve("breakout") == others
    assert settings.resolve("pong", {"policy.width": 10}).policy == {"width": 10}


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "[train]\nlearning_rat = 1\n",
            "unknown .*key 'learning_rat' in .train.: did you mean learning_rate",
        ),
        ("[env]\nframeskp = 1\n", "unknown .*key 'frameskp' in .env.: did you mean frameskip"),
        ("[trian]\ngamma = 1\n", r"unknown .*section \[trian\]: did you mean train"),
        ("[train]\ngamma = high\n", "gamma in .train. = 'high': expected a number"),
        ("[train]\ngamma = 1.5\n", "gamma in .train. = 1.5: expected a number from 0 to 1"),
        ("[train]\ngamma =\n", "gamma in .train. has no value"),
        ("[env]\nframeskip = 2.5\n", "frameskip in .env. = '2.5': expected a whole number"),
        ("[train]\nminibatch_size = 4,09\n", "minibatch_size in .train. = '4,09': expected a whole number"),
        ("[train]\ngamma = 0.9\ngamma = 0.8\n", "cannot read the settings in .*already exists"),
        ("gibberish\n", "cannot read the settings in"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_the_file(text, said):
    path = write(Path("config/atari/pong.ini"), PONG + text)
    said_instead = refusal("--env pong")
    assert re.search(said, said_instead) and str(path) in said_instead


def test_a_file_that_is_no_text_is_refused():
    write(Path("config/x.ini"), "").write_bytes(b"\xff\xfe\x00")
    assert "cannot read the settings in config/x.ini" in refusal("--env pong")


def test_an_environment_in_two_files_of_a_folder_is_refused():
    for name in ("a", "b"):
        write(Path(f"config/{name}.ini"), PONG)
    assert "config/a.ini and in config/b.ini" in refusal("--env pong")


def test_a_default_file_that_lost_a_setting_is_refused(shipped):
    path = shipped / "default.ini"
    path.write_text(re.sub(r"gamma = .*\n", "", path.read_text()))
    assert "no gamma in [train]" in refusal("--env alien")


# The command line


def test_the_guide_s_first_two_commands():
    first = load("--mode train --vec multiprocessing --env beam_rider")
    assert (first.mode, first.vec, first.env, first.collapse) == (
        "train",
        "multiprocessing",
        "beam_rider",
        None,
    )
    second = load("--mode train --vec multiprocessing --env beam_rider --collapse 0.3")
    assert (second.collapse, second.collapse_epoch) == (0.3, 50)
    assert set(second.settings.collapse.thresholds().values()) == {0.3}


def test_the_other_options():
    args = load(
        "--env pong --seed 5 --exp-name pong-0123abcd --resume --track --wandb-group g --collapse-epoch 51 "
        "--trust-checkpoint --vector serial --wandb_project p"
    )
    assert (args.seed, args.settings.train.seed, args.exp_id, args.track) == (5, 5, "pong-0123abcd", "wandb")
    assert (args.wandb_project, args.wandb_group, args.wandb_entity) == ("p", "g", None)
    assert args.resume and args.trust_checkpoint and args.collapse_epoch == 51
    assert args.collapse is None  # an epoch alone asks for no collapse
    assert load("--env pong --track tensorboard").track == "tensorboard"
    played = load("--env pong --mode evaluate --vector serial --episodes 3 --capture-video")
    assert (played.mode, played.vec, played.episodes, played.capture_video) == ("eval", "serial", 3, True)


@pytest.mark.parametrize(
    "words",
    [
        "--train.learning-rate 3e-4",
        "--train.learning_rate 3e-4",
        "--train.learning-rate=3e-4",
        "--train.learning-rate 1 --train.learning-rate 3e-4",
    ],
)
def test_any_setting_can_be_overridden(words):
    args = load(f"--env beam_rider {words}")
    assert args.settings.train.learning_rate == 3e-4
    assert args.overrides == {"train.learning_rate": "3e-4"}


def test_a_truth_value_may_stand_alone():
    args = load("--train.compile --env pong --train.norm-adv false --env.full-action-space")
    assert args.settings.train.compile is True and args.settings.train.norm_adv is False
    assert args.settings.env["full_action_space"] is True


def test_none_takes_an_argument_away():
    args = load("--env pong --base.rnn-name None --env.framestack none")
    assert args.settings.base.rnn_name is None and "framestack" not in args.settings.env


def test_kinds_come_over_the_one_threshold():
    assert load("--env pong --collapse 0.2 --collapse.linear 0.7").settings.collapse.thresholds() == {
        "linear": 0.7,
        "cnn": 0.2,
        "lstm": 0.2,
        "critic": 0.2,
    }
    assert load("--env pong --collapse.lstm 0.5").collapse == 0.3  # asked for by a kind alone
    assert load("--env pong --mode collapse").collapse == 0.3
    assert load("--env pong --collapse 0").collapse == 0


@pytest.mark.parametrize(
    "typed, name",
    [
        ("Beam-Rider", "beam_rider"),
        ("beamrider", "beam_rider"),
        ("ALE/beam_rider", "beam_rider"),
        ("mountaincar", "mountain_car"),
        ("mountaincar-continuous", "mountain_car_continuous"),
        ("CartPole-v1", "CartPole-v1"),
        ("half-cheetah", "half_cheetah"),
    ],
)
def test_names_of_environments_are_read_kindly(typed, name):
    assert load(f"--env {typed}").env == name


@pytest.mark.parametrize(
    "line, said",
    [
        ("--env breakut", "unknown env 'breakut': did you mean --env breakout?"),
        ("--env ALE/BeamRider-v5", "did you mean --env beam_rider?"),
        ("--env nothing_like_it_at_all", "unknown env 'nothing_like_it_at_all': --help lists them all"),
        ("--mode trian --env pong", "--mode: unknown value 'trian': did you mean train?"),
        ("--vec multi --env pong", "--vec.*did you mean multiprocessing?"),
        ("--env pong --track tensorbord", "did you mean tensorboard?"),
        ("--env pong --train.learning-rat 3", "unknown .*'train.learning_rat'.* --train.learning-rate?"),
        ("--env pong --env.frameskp 3", "unknown .*'env.frameskp'.* --env.frameskip?"),
        ("--env cartpole --env.frameskip 3", "unknown setting 'env.frameskip'"),
        ("--env pong --trian.gamma 0.5", "unknown argument '--trian.gamma': did you mean --train.gamma?"),
        ("--env pong --colapse 0.3", "unknown argument '--colapse': did you mean --collapse?"),
        ("--env pong --collaps 0.3", "did you mean --collapse?"),  # no abbreviations
        ("--env pong train", "unknown argument 'train': did you mean --mode train?"),
        (
            "--env pong --train.learning-rate fast",
            "--train.learning-rate = 'fast': expected a number, such as 0.0",
        ),
        ("--env pong --train.learning-rate nan", "expected a number"),
        ("--env pong --train.update-epochs 2.5", "--train.update-epochs = '2.5': expected a whole number"),
        ("--env pong --train.update-epochs 0", "--train.update-epochs = 0: expected a number at least 1"),
        ("--env pong --train.norm-adv maybe", "--train.norm-adv = 'maybe': expected True or False"),
        ("--env pong --train.precision float16", "float32 or bfloat16; did you mean bfloat16?"),
        ("--env pong --train.threads some", "expected auto or a whole number"),
        ("--env pong --train.gamma", "--train.gamma needs a value: a number"),
        ("--env pong --train.gamma --resume", "--train.gamma needs a value: a number"),
        ("--env pong --episodes 0", "--episodes: '0': expected a whole number of at least 1"),
        ("--env pong --seed five", "--seed = 'five': expected a whole number"),
        ("--env pong --seed -1", "--seed = -1: expected a number from 0"),
        ("--env pong --seed 1 --train.seed 2", "--seed and --train.seed are one setting"),
        (
            "--env pong --collapse 2.1",
            "--collapse = 2.1: .*from 0 to 2 .*python demo.py --mode train .*--collapse 0.3",
        ),
        ("--env pong --collapse -0.1", "--collapse = -0.1: .*from 0 to 2"),
        *(
            (f"--env pong --collapse.{kind} 3", f"--collapse.{kind} = 3.0: .*from 0 to 2")
            for kind in ("linear", "cnn", "lstm", "critic")
        ),
        ("--env pong --collapse", "--collapse: expected one argument"),
        ("--env pong --collapse 0,1", "--collapse = '0,1': expected auto or a number; did you mean 0.1?"),
        ("--env pong --train.lr 3e-4", "unknown setting 'train.lr': did you mean --train.learning-rate?"),
        ("--env pong --train.tt 1e6", "did you mean --train.total-timesteps?"),
        ("--env pong --train.device banana", "'banana': expected auto, cpu, cuda or cuda:1$"),
        (
            "--env pong --train.total-timesteps 100",
            "total_timesteps = 100 is less than one batch, .* --train.total-timesteps \\d+$",
        ),
        ("--env pong --collapse.calibrate 9", "--collapse.calibrate says how to collapse: add --collapse"),
        ("--env pong --resume --collapse 0.3", "leave one out"),
        ("--exp-id x --mode eval --eval-model-path y", "both say what to load: leave one of them out"),
        ("--env pong --config nowhere", "--config nowhere: expected a folder"),
        (
            "--mode report",
            "nothing to report: name an environment, as in .*--env beam_rider, or a run with --exp-id",
        ),
        ("", "nothing to train"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(line, said):
    assert re.search(said.replace("?", r"\?"), refusal(line))


@pytest.mark.parametrize(
    "words, said",
    [
        ("num-envs 65", "must be a multiple of both num_envs x bptt_horizon = 520"),
        ("minibatch-size 1000", "minibatch_size = 1000"),
        ("minibatch-size 1028", "minibatch_size = 1028 must be a multiple of bptt_horizon = 8"),
        ("env-batch-size 48", "env_batch_size = 48 must divide num_envs = 64"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_sizes_that_do(words, said):
    given = "--env pong --train.num-envs 64 --train.bptt-horizon 8 --train.batch-size 32768"
    given += " --train.minibatch-size 512"
    sentence = refusal(f"{given} --train.{words}")
    assert said in sentence
    flag, size = re.search(r"try --train\.([\w-]+) (\d+)", sentence).groups()
    assert load(f"{given} --train.{words} --train.{flag} {size}").env == "pong"


def test_only_an_exp_id_leaves_the_environment_to_the_run():
    args = load("--exp-id pong-0123abcd --train.gamma 0.5 --env.frameskip 3")
    assert (args.env, args.settings.base.env_name) == (None, None)
    assert args.settings.train.gamma == 0.5
    stored = settings.resolve("enduro").to_plain()
    assert settings.from_plain(stored, args.overrides).env["frameskip"] == 3


# Bounds: of each number that is a setting


OUT_OF_BOUNDS = [
    ("pong", "env.frameskip", "0", "at least 1"),
    ("pong", "env.framestack", "0", "at least 1"),
    ("pong", "env.repeat-action-probability", "2", "from 0 to 1"),
    ("pong", "env.max-num-frames-per-episode", "-1", "at least 1"),
    ("cartpole", "env.max-episode-steps", "0", "at least 1"),
    ("cartpole", "env.max-episode-steps", "-1", "at least 1"),
    ("memory_cue", "env.n-cues", "0", "at least 1"),
    ("career", "env.burnout-rate", "0.6", "from 0.01 to 0.5"),
    ("career", "env.max-steps", "10", "from 50 to 500"),
    ("coin_grid", "env.size", "2", "at least 3"),
    ("cartpole_variant", "env.force", "0", "above 0"),
    ("memory_cue", "env.delay", "-1", "at least 0"),
    ("arena_basic_easy_shaped", "env.size", "0", "at least 1"),
    ("half_cheetah", "policy.hidden-size", "-4", "at least 1"),
    ("cartpole", "policy.hidden-size", "0", "at least 1"),
    ("cartpole", "rnn.num-layers", "0", "at least 1"),
    ("cartpole", "rnn.hidden-size", "0", "at least 1"),
    ("cartpole", "env.reward-clip", "0", "above 0"),
    ("cartpole", "collapse.target-params", "0", "above 0 and at most 1"),
]


@pytest.mark.parametrize("env, key, value, expected", OUT_OF_BOUNDS)
def test_a_number_out_of_bounds_is_refused_with_option_value_and_expectation(env, key, value, expected):
    said = refusal(f"--env {env} --{key} {value}")
    assert re.match(rf"--{key} = {value}(\.0)?: expected a number {expected}", said)


@pytest.mark.parametrize("env", [names[0] for names in settings.environments().values()])
@pytest.mark.parametrize("policy", ["Policy", "Fast"])
def test_every_number_among_the_arguments_has_bounds(env, policy):
    for (section, key), setting in layers.Schema(env, policy=policy).keys.items():
        numeric = {int, float} & {*getattr(setting.kind, "__args__", (setting.kind,))}
        if section in FREE and numeric:
            assert setting.bounds != values.Bounds(), f"[{section}] {key}: say its bounds in the comment"
            with pytest.raises(UserError, match="expected a number"):
                settings.resolve(env, {"base.policy_name": policy, f"{section}.{key}": "-1"})


@pytest.mark.parametrize(
    "comment, kind, bounds, said",
    [
        ("int from 1: frames", int | None, values.Bounds(1), "frames"),
        ("float above 0: a clip", float | None, values.Bounds(0, above=True), "a clip"),
        ("int from -2 to 2.5: both", int | None, values.Bounds(-2, 2.5), "both"),
        ("str: a word", str | None, values.Bounds(), "a word"),
        ("0: off, 1: on", object, values.Bounds(), "0: off, 1: on"),
        ("frames: many", object, values.Bounds(), "frames: many"),
    ],
)
def test_a_comment_may_begin_with_type_and_bounds(comment, kind, bounds, said):
    write(Path("config/mine.ini"), f"[base]\nenv_name = maze\n[env]\nx = None  # {comment}\n")
    found = layers.Schema("maze").keys["env", "x"]
    assert (found.kind, found.bounds, found.help) == (kind, bounds, said)


# Names that become folders


@pytest.mark.parametrize("option", ["--exp-id", "--run"])
@pytest.mark.parametrize("name", ["x" * 300, "é" * 101, "two\nlines", "a\tb", "\x1b[31m", "\udcff", "", "  "])
def test_a_name_that_no_folder_can_have_is_refused(option, name):
    with pytest.raises(UserError, match=f"^{option} = .*: expected a name") as error:
        settings.load(
            ["--env", "pong", "--layout", "metta" if option == "--run" else "experiments", option, name]
        )
    assert len(str(error.value)) < 200 and str(error.value).isprintable()


def test_other_names_pass():
    for name in ("a run", "übung", "x" * 200, "base/collapsed_model_thr_03_000006/cartpole-0123abcd"):
        assert settings.load(["--env", "pong", "--exp-id", name]).exp_id == name


# Options and modes


USED = {
    "--episodes 3": {"eval", "diagnose"},
    "--capture-video": {"eval"},
    "--eval-model-path x.pt": {"eval", "export"},
    "--resume": {"train"},
    "--track": {"train"},
    "--wandb-group g": {"train"},
    "--collapse 0.3": {"train", "collapse", "fibers", "report", "diagnose"},
    "--collapse.lstm 0.3": {"train", "collapse", "fibers", "report", "diagnose"},
    "--collapse auto": {"train", "collapse"},
    "--collapse-epoch 3": {"train", "collapse"},
    "--collapse.distill 3 --collapse 0.3": {"train", "collapse"},
    "--exp-id x": set(MODES) - {"autotune", "profile"},
    "--train.learning-rate 0.1": {"train", "autotune", "profile"},
    "--policy.hidden-size 3": {"train", "autotune", "profile"},
    "--base.rnn-name None": {"train", "autotune", "profile"},
    "--env.frameskip 3": set(MODES) - {"fibers", "report"},
    "--train.data-dir there": set(MODES),
    "--vec serial": set(MODES),
    "--seed 3": set(MODES),
}


@pytest.mark.parametrize("words, modes", USED.items())
def test_an_option_that_a_mode_does_not_use_is_refused_with_those_that_do(words, modes):
    for mode in MODES:
        line = f"--env pong --mode {mode} {words}"
        if mode in modes:
            assert load(line).mode == mode
        else:
            said = refusal(line)
            assert said.startswith(f"--mode {mode} does not use {words.split()[0]}")
            assert all(re.search(rf"\b{other}\b", said) for other in modes)


def test_a_pickled_policy_may_be_described_in_every_mode():
    assert load("--env pong --mode eval --trust-checkpoint --policy.hidden-size 3").mode == "eval"


# Stored runs


def test_overrides_are_judged_over_the_run_that_they_are_for():
    made = {"train.batch_size": 2048, "train.minibatch_size": 512, "train.num_envs": 8}
    plain = settings.resolve("cartpole", made).to_plain()
    line = "--exp-id x --resume --train.num-envs 128".split()
    with pytest.raises(UserError, match="batch_size = "):  # of default.ini, which is not the run's
        settings.load(line)
    args = settings.load([*line, "--train.data-dir", "there"], lambda args: plain)
    assert (args.settings.train.num_envs, args.settings.train.batch_size) == (128, 2048)
    assert args.settings.train.data_dir == "there" and args.env is None
    with pytest.raises(UserError, match="batch_size = 2048 must be a multiple of .* = 4096"):
        settings.load(["--env", "cartpole", "--exp-id", "x", "--train.num-envs", "256"], lambda args: plain)
    with pytest.raises(UserError, match="unknown setting 'env.frameskip'"):
        settings.load(["--exp-id", "x", "--env.frameskip", "3"], lambda args: plain)


def test_a_stored_run_comes_back_as_it_was(shipped):
    given = {
        "train.learning_rate": 0.1 + 0.2,
        "env.frameskip": None,
        "train.target_kl": 0.01,
        "base.rnn_name": None,
    }
    first = settings.resolve("beam_rider", given)
    stored = json.loads(json.dumps(first.to_plain()))
    assert settings.from_plain(stored) == first
    for path in shipped.rglob("*.ini"):  # whatever the files say by then
        path.write_text(
            path.read_text().replace("gamma = 0.99", "gamma = 0.11").replace("frameskip = 4", "frameskip = 2")
        )
    assert settings.from_plain(stored) == first
    assert settings.resolve("beam_rider", given) != first


def test_the_command_line_comes_over_a_stored_run():
    stored = settings.resolve("pong", {"train.seed": 3, "train.gamma": 0.5}).to_plain()
    found = settings.from_plain(stored, load("--env pong --train.gamma 0.6 --env.framestack 2").overrides)
    assert (found.train.seed, found.train.gamma, found.env["framestack"]) == (3, 0.6, 2)


def test_a_run_from_before_a_setting_takes_its_default_and_no_new_argument():
    stored = settings.resolve("pong").to_plain()
    del stored["train"]["precision"], stored["env"]["reward_scale"]
    found = settings.from_plain(stored)
    assert found.train.precision == "auto" and "reward_scale" not in found.env


def test_a_stored_setting_that_nobody_knows_is_refused():
    stored = settings.resolve("pong").to_plain()
    stored["train"]["momentum"] = 0.9
    with pytest.raises(UserError, match="unknown setting 'train.momentum'"):
        settings.from_plain(stored)


def test_replace_keeps_the_sizes_checked():
    train = settings.resolve("pong").train
    with pytest.raises(UserError, match="batch_size"):
        replace(train, batch_size=train.batch_size + 1)


# Values


@pytest.mark.parametrize(
    "text, kind, value",
    [
        ("4,096", int, 4096),
        ("9_216_000", int, 9_216_000),
        ("1e6", int, 1_000_000),
        ("-3", int, -3),
        ("1", float, 1.0),
        ("TRUE", bool, True),
        ("no", bool, False),
        ("None", int | None, None),
        ("None", str | None, None),
        ("7", int | None, 7),
        ("'a b'", str, "a b"),
        ("[1, 2]", list, [1, 2]),
    ],
)
def test_values_are_read_as_their_type(text, kind, value):
    found = values.read(text, kind, "x")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text, value",
    [
        ("4_096", 4096),
        ("0.0", 0.0),
        ("1e-3", 1e-3),
        ("True", True),
        ("None", None),
        ("(1, 2)", (1, 2)),
        ("pong", "pong"),
    ],
)
def test_a_default_s_text_gives_its_type(text, value):
    found = values.literal(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text, kind", [("4,09", int), ("0,5", float), ("inf", float), ("1e400", float), ("1.5", int)]
)
def test_what_is_no_such_value_is_refused(text, kind):
    with pytest.raises(UserError, match=f"x = '{text}': expected"):
        values.read(text, kind, "x")


# Help


def test_help_names_every_option_every_setting_and_every_environment(capsys):
    with pytest.raises(SystemExit) as ended:
        load("--env Enduro --help")
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for (section, key), setting in layers.Schema("enduro").keys.items():
        if (section, key) != ("base", "env_name"):
            assert settings.flag(section, key) + " " in text
            assert setting.help in text or section not in (*FREE, "train") or key == "seed"
    default = layers.Schema("enduro").keys["env", "frameskip"].text
    assert f"--env.frameskip VALUE emulator frames that an action is held for (default: {default};" in text
    for option in ("--mode", "--vec", "--resume", "--exp-id", "--track", "--eval-model-path", "--config"):
        assert option in text
    for names in settings.environments().values():
        assert set(names) <= set(text.split())


def test_help_without_an_environment_still_has_the_common_settings(capsys):
    with pytest.raises(SystemExit):
        load("--help")
    text = capsys.readouterr().out
    assert "--train.learning-rate" in text and "--env.frameskip" not in text


@pytest.mark.parametrize("env", [None, *(names[0] for names in settings.environments().values())])
def test_help_says_bounds_in_words_and_shows_nothing_of_a_comment_s_grammar(env):
    for (section, key), setting in layers.Schema(env).keys.items():
        assert not re.match(r"(int|float|bool|str|from|above)\b.*:", setting.help), f"[{section}] {key}"


def test_help_says_bounds(capsys):
    with pytest.raises(SystemExit):
        load("--env pong --help")
    text = " ".join(capsys.readouterr().out.split())
    assert "a whole number at least 1)" in text and "a whole number or None at least 1)" in text
    assert "from 0 to 1)" in text
