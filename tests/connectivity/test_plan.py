"""Plans of forking experiments: defaults as published, each mistake a sentence."""

import pytest

from pufferlib_kcore.cli.forking import _plain, plan_of
from pufferlib_kcore.connectivity.plan import Plan, help_of, points
from pufferlib_kcore.errors import UserError


def test_defaults_are_those_that_were_published():
    p = Plan.of({})
    assert (p.env, p.algo, p.seed, p.total_steps) == ("InvertedDoublePendulum-v5", "SAC", None, 200_000)
    assert (p.eval_freq, p.max_episode_steps, p.buffer_size, p.train_freq) == (1000, 1000, 1_000_000, 2)
    assert p.fork_points == (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    assert (p.fork_buffer_strategy, p.experiment_name, p.alphas, p.fork_episodes) == (
        "copy",
        "base",
        101,
        100,
    )
    assert (p.learning_starts, p.ent_coef, p.batch, p.eval_episodes) == (10_000, 0.2, 1024, 10)
    assert Plan.of({"algo": "DDPG"}).batch == 256
    assert 1 <= p.seeded().seed <= 1_000_000 and Plan.of({"seed": "7"}).seeded().seed == 7


def test_buffers_are_no_larger_than_the_steps_need():
    assert Plan.of({}).capacity() == 200_000 and Plan.of({"buffer_size": "500"}).capacity() == 500
    assert Plan.of({}).capacity(children=2) == 400_000


@pytest.mark.parametrize("text", ["0.1,0.5", "0.1, 0.5", "0.1 0.5", "[0.1, 0.5]"])
def test_fork_points_are_read_however_they_are_parted(text):
    assert points(text, "x") == (0.1, 0.5)


def test_a_fork_is_made_where_a_rollout_ends_and_what_comes_before_learning_is_an_initialisation():
    p = Plan.of(
        {"total_steps": "1000", "train_freq": "7", "fork_points": "0.1,0.5", "learning_starts": "100"}
    )
    assert [p.step_of(point) for point in p.fork_points] == [105, 504]
    assert p.first_update == 105 and p.step_of(0.1) >= p.first_update  # at 105 steps, 105 > 100
    assert Plan.of({}).first_update == 10_002


@pytest.mark.parametrize(
    "texts, said",
    [
        ({"algo": "PPO"}, "--algo = 'PPO': expected SAC or DDPG"),
        ({"fork_points": "0.5,0.2"}, "0.2 after 0.5"),
        ({"fork_points": "0.5,0.5"}, "0.5 after 0.5"),
        ({"fork_points": "0,0.5"}, "between 0 and 1"),
        ({"fork_points": "1.5"}, "between 0 and 1"),
        ({"fork_points": ""}, "names no fork"),
        ({"fork_points": "a,b"}, "--fork_points = 'a'"),
        ({"fork_points": "0.5,0.5001", "total_steps": "1000"}, "farther apart"),
        ({"fork_points": "0.9999", "total_steps": "100"}, "leaves none to train"),
        ({"alphas": "1"}, "--alphas = 1"),
        ({"fork_episodes": "0"}, "--fork_episodes = 0"),
        ({"seed": "-1"}, "--seed = -1"),
        ({"ent_coef": "much"}, "--ent_coef"),
        ({"experiment_name": "a/b"}, "cannot name a folder"),
        ({"total_stepz": "3"}, "did you mean total_steps"),
        ({"fork_buffer_strategy": "spilt"}, "did you mean split"),
    ],
)
def test_what_cannot_be_is_one_sentence(texts, said):
    with pytest.raises(UserError) as error:
        Plan.of(texts)
    assert said in str(error.value) and "\n" not in str(error.value)


def given(*words):
    from pufferlib_kcore.cli.forking import _parser, _plan_arguments

    parser = _parser("x", "x")
    _plan_arguments(parser)
    parser.add_argument("--config")
    return plan_of(parser.parse_args(_plain(words)))


def test_flags_come_over_the_file_and_that_over_defaults(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("total_steps: 5000\nfork_points: [0.2, 0.4]\nalgo: DDPG\nseed: null\n")
    found = given("--config", str(file), "--total-steps", "6000", "--env=Hopper-v5")
    assert (found.total_steps, found.fork_points, found.algo) == (6000, (0.2, 0.4), "DDPG")
    assert (found.env, found.seed, found.eval_freq) == ("Hopper-v5", None, 1000)


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: [", "cannot read"),
        ("- 1\n- 2\n", "expected settings such as"),
        ("train: {gamma: 1}\n", "train has parts"),
        ("totalsteps: 3\n", "my.yaml: totalsteps is no setting of an experiment: did you mean total_steps"),
        ("total_steps: many\n", "my.yaml: total_steps = 'many'"),
    ],
)
def test_a_file_that_cannot_be_is_named(tmp_path, text, said):
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="my.yaml") as error:
        given("--config", str(file))
    assert said in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        given("--config", str(tmp_path / "none.yaml"))


def test_every_setting_has_its_help():
    assert set(help_of()) == set(Plan.of({}).plain()) and all(help_of().values())
