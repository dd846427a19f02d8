"""Training as a job: what a request comes to, in toy environments and no process of its own."""

from types import SimpleNamespace

import pytest
import torch
from company import Jolts, Tells, end, same
from worlds import Countdown, Laps, weights

from pufferlib_kcore import settings, store
from pufferlib_kcore.cli.train import ending
from pufferlib_kcore.environments.contract import WorkerDied
from pufferlib_kcore.errors import RunFailed, UserError
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.collapsing import Ready
from pufferlib_kcore.jobs.commands import Home
from pufferlib_kcore.jobs.source import RunSource
from pufferlib_kcore.jobs.stored import Over
from pufferlib_kcore.jobs.training import Trained, TrainRequest, changes, resumed, retrained, train
from pufferlib_kcore.store import StateFile
from pufferlib_kcore.training.companions import Companion, Said, companions

SMALL = {
    "train.num_envs": "4",
    "train.batch_size": "64",
    "train.minibatch_size": "32",
    "train.bptt_horizon": "4",
    "train.checkpoint_interval": "3",
    "train.threads": "1",
    "train.device": "cpu",
    "policy.hidden_size": "8",
    "base.rnn_name": "Recurrent",
}


def six(epochs=6):
    return {"train.total_timesteps": str(64 * epochs)}


@pytest.fixture
def toy(monkeypatch):
    """Every world is Laps, or what stands in .vec."""
    made = SimpleNamespace(vec=Laps, open=[])

    class Closing:
        def __init__(self, vec):
            self.vec = vec
            made.open.append(self)

        def __getattr__(self, name):
            return getattr(self.vec, name)

        def close(self):
            made.open.remove(self)

    def open_world(settings, backend, together):
        return worlds.World(Closing(made.vec()), SimpleNamespace(workers=1), backend)

    monkeypatch.setattr(worlds, "open_world", open_world)
    return made


@pytest.fixture
def known(monkeypatch):
    """Jolts is registered, with its size as a setting."""
    monkeypatch.setattr(companions, "_things", {"jolts": Jolts, "tells": Tells})
    monkeypatch.setattr(companions, "_declarations", {"jolts": Jolts, "tells": Tells})


def request(folder, overrides=(), **more):
    found = settings.resolve("cartpole", {**SMALL, **six(), **dict(overrides)})
    home = Home(data_dir=str(folder), vec="serial")
    return TrainRequest(**{"settings": found, "home": home, "root": folder, "name": "run", **more})


def going_on(folder, say=lambda text: None, overrides=(), **more):
    source = RunSource(run=store.Run(folder / "run"), over=Over(overrides=dict(overrides)), vec="serial")
    return resumed(source, Home(data_dir=str(folder), vec="serial"), say, **more)


def test_a_new_run_is_trained_to_its_end_and_says_all_that_the_guides_name(tmp_path, toy):
    done = train(request(tmp_path))
    assert done == Trained(run=store.Run(tmp_path / "run"), finished=True) and not toy.open
    assert [epoch for epoch, _ in done.run.checkpoints()] == [3, 6]
    config = done.run.config()
    assert config["settings"]["train"]["batch_size"] == 64 and config["seed"] == 1
    assert config["changes"] == [] and config["policy"]["name"] == "Default" and "packages" in config
    first, *lines = (done.run.path / "log.out").read_text().splitlines()
    assert first.startswith(f"run={done.run.path} env=cartpole policy=") and "params=" in first
    assert len(lines) == 6 and lines[5].startswith("epoch=6 agent_steps=384 ")
    assert store.ModelFile.load(done.run.latest()[1]).env.name == "cartpole"


def test_six_epochs_are_three_and_three_more_bit_by_bit_from_files_alone(tmp_path, toy, known):
    asked = {"companions": {"jolts": {"size": 0.02}}}
    straight = train(request(tmp_path / "straight", **asked)).run
    stopped = train(request(tmp_path, **asked), stop=lambda: (tmp_path / "run/model_000003.pt").exists())
    assert not stopped.finished
    heard = []
    second = train(going_on(tmp_path, **asked), say=heard.append)
    assert second.finished and heard == []
    ends = []
    for run in (straight, second.run):
        model = store.ModelFile.load(run.model_path(6))
        policy = SimpleNamespace(parameters=lambda model=model: model.state_dict.values())
        ends.append(end(SimpleNamespace(run=run, policy=policy)))
    assert same(*ends)
    assert StateFile.load(second.run.state_path(6)).companions.keys() == {"jolts"}


def test_a_companion_left_out_is_said_and_its_state_is_gone(tmp_path, toy, known):
    train(request(tmp_path, six(3), companions={"jolts": {}}))
    heard = []
    train(going_on(tmp_path, overrides=six(6)), say=heard.append)
    assert heard == ["jolts does not go on: it is not asked for now"]
    assert not StateFile.load(tmp_path / "run/model_000006.state.pt").companions


def test_a_companion_stops_the_run_and_its_reason_is_told(tmp_path, toy, monkeypatch):
    class Watches(Companion):
        def after(self, epoch):
            return Said(stop="the entropy is gone" if epoch.number == 2 else None)

    monkeypatch.setattr(companions, "_things", {"watches": Watches})
    monkeypatch.setattr(companions, "_declarations", {"watches": Watches})
    asked = request(tmp_path, companions={"watches": {}})
    done = train(asked)
    assert not done.finished and done.reason == "watches: the entropy is gone"
    args = settings.load(["--env", "cartpole", "--train.data-dir", str(tmp_path)])
    said = ending(done, asked, args)
    assert said.startswith(
        f"stopped by watches: the entropy is gone; saved {tmp_path / 'run/model_000002.pt'}\n"
    )
    assert "go on: python demo.py --mode train --env cartpole --resume --exp-id run" in said


@pytest.mark.parametrize(
    "more, words",
    [
        ({"companions": {"jolt": {}}}, ["unknown companion 'jolt'", "did you mean jolts"]),
        ({"companions": {"jolts": {"sise": 1}}}, ["jolts has no setting 'sise'", "did you mean size"]),
        ({"algorithm": "pop"}, ["unknown algorithm 'pop'", "did you mean ppo"]),
        ({"algorithm_settings": {"alpha": 1}}, ["ppo has no setting 'alpha'"]),
    ],
)
def test_what_is_not_known_is_one_sentence_and_leaves_no_run(tmp_path, toy, known, more, words):
    with pytest.raises(UserError) as error:
        train(request(tmp_path, **more))
    assert all(word in str(error.value) for word in words)
    assert not toy.open and not list(tmp_path.iterdir())


def test_nothing_is_left_to_train(tmp_path, toy):
    train(request(tmp_path))
    with pytest.raises(UserError, match="nothing to train: 384 steps .* --train.total-timesteps 768"):
        train(going_on(tmp_path))


def test_a_damaged_checkpoint_is_passed_over_said_and_set_aside(tmp_path, toy):
    run = train(request(tmp_path)).run
    run.model_path(6).write_bytes(b"PK\x03\x04 cut short")
    heard = []
    asked = going_on(tmp_path, heard.append)
    assert asked.start.epoch == 3 and asked.origin.bad == (6,)
    assert heard[0].startswith(f"passed over: {run.model_path(6)} is damaged") and "going on from" in heard[1]
    train(asked)
    assert run.model_path(6).with_name("model_000006.pt.bad").is_file() and run.latest()[0] == 6
    assert [r["epoch"] for r in run.metrics()] == [1, 2, 3, 4, 5, 6]


def test_what_a_resumed_run_changes_is_kept_beside_its_settings(tmp_path, toy):
    train(request(tmp_path, six(3)))
    done = train(going_on(tmp_path, overrides={**six(6), "train.learning_rate": "0.5e-3"}))
    (change,) = done.run.config()["changes"]
    assert change["after_epoch"] == 3
    assert change["settings"].keys() == {"train.total_timesteps", "train.learning_rate"}
    assert change["settings"]["train.learning_rate"]["now"] == 0.5e-3
    assert changes({"train": {"a": 1, "b": 2}}, {"train": {"a": 1, "b": 3, "c": (4,)}}) == {
        "train.b": {"before": 2, "now": 3},
        "train.c": {"before": None, "now": [4]},
    }


def test_a_run_that_diverges_says_what_is_left(tmp_path, toy):
    toy.vec = lambda: Countdown([20] * 4, bad_at=66)
    with pytest.raises(
        RunFailed, match=r"diverged in epoch 5: .*last good checkpoint is .*model_000003.pt; try"
    ):
        train(request(tmp_path))
    toy.vec = lambda: Countdown([20] * 4, bad_at=8)
    with pytest.raises(RunFailed, match="none was saved"):
        train(request(tmp_path, name="other"))
    assert not toy.open


def test_a_run_whose_environments_die_says_how_it_goes_on(tmp_path, toy):
    class Dies(Laps):
        def send(self, g, actions):
            super().send(g, actions)
            if self.sent == 2 * 16 * 4:
                raise WorkerDied("a worker was killed")

    toy.vec = Dies
    with pytest.raises(RunFailed, match=r"killed; the run stopped in .*; go on with `python .* --exp-id run"):
        train(request(tmp_path))
    assert store.Run(tmp_path / "run").latest()[0] == 3


def test_a_policy_for_other_spaces_is_refused_before_anything_is_made(tmp_path, toy):
    train(request(tmp_path, six(3)))

    def other():
        vec = Laps()
        vec.single_action_space = type(vec.single_action_space)(5)
        return vec

    toy.vec = other
    with pytest.raises(UserError, match="was trained with the action_space"):
        train(going_on(tmp_path, overrides=six(6)))


def test_a_made_policy_is_trained_on_as_a_run_in_its_folder(tmp_path, toy):
    """As a collapse's is: its epochs and steps go on, and its log is named for it."""
    run = train(request(tmp_path, six(3))).run
    source = RunSource(run=run, over=Over(overrides=six(5)), vec="serial")
    restored = source.read(run.model_path(3))
    made = {"source": "x", "epoch": 3, "tag": "0.3", "params_before": 9, "params_after": 7}
    ready = Ready(
        source=source,
        epoch=3,
        agent_steps=192,
        policy=restored.policy,
        spec=restored.spec,
        optimizer=None,
        provenance=made,
        text="",
    )
    before = weights(restored.policy)
    asked = retrained(ready, Home(data_dir=str(tmp_path), vec="serial"), tmp_path / "below", name="again")
    done = train(asked)
    assert [r["epoch"] for r in done.run.metrics()] == [4, 5] and done.run.path == tmp_path / "below/again"
    header = (done.run.path / "log_collapsed.out").read_text().splitlines()[0]
    assert "collapsed_from=x collapse_epoch=3 threshold=0.3 params_before=9 params_after=7" in header
    assert not torch.equal(before, weights(asked.origin.policy))
    metta = Home(data_dir=str(tmp_path), vec="serial", layout="metta")
    done = train(retrained(ready, metta, tmp_path, name="metta"))
    assert isinstance(done.run, store.MettaFolder) and (done.run.path / "log.out").is_file()
    assert [epoch for epoch, _ in done.run.checkpoints()] == [3, 5], "what it starts from is its first"
