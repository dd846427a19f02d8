"""--mode fork and --mode connectivity, and the programs of experiments/, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_forks
import torch

from pufferlib_kcore import cli
from pufferlib_kcore.cli import forking as programs
from pufferlib_kcore.connectivity.actors import read
from pufferlib_kcore.connectivity.matching import distance
from pufferlib_kcore.jobs import forking, valley
from pufferlib_kcore.jobs.lines import end_of
from pufferlib_kcore.jobs.source import RunSource
from pufferlib_kcore.store import FibersFile, ModelFile, Run, StateFile

SMALL = (
    "--vec serial --env cartpole --train.num-envs 4 --train.batch-size 64 --train.minibatch-size 32 "
    "--train.bptt-horizon 8 --train.update-epochs 1 --train.checkpoint-interval 1 --policy.hidden-size 8 "
    "--train.total-timesteps 384 --train.keep-state all --exp-id a"
).split()
LINE = "--vec serial --exp-id a --line.alphas 3 --line.episodes 4".split()
FORK = ["--mode", "fork", *LINE]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(capsys, *words, ends=0):
    status = cli.main(list(words))
    out, err = capsys.readouterr()
    assert status == ends, (words, out, err)
    return out if ends == 0 else err


def trained(capsys, *more):
    ran(capsys, *SMALL, *more)
    return Run.open("experiments/a")


def weights(run):
    return ModelFile.load(run.latest()[1]).state_dict


def equal(one, other):
    return all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.parametrize("rnn", [(), ("--base.rnn-name", "Recurrent")], ids=["mlp", "lstm"])
def test_a_run_is_forked_and_goes_on_as_if_it_was_not(capsys, rnn):
    run = trained(capsys, *rnn)
    before = {
        path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file() and path.name != ".lock"
    }
    said = ran(capsys, *FORK, "--fork-points", "0.2,0.5")
    assert "wrote experiments/a/connectivity" in said
    assert all((run.path / name).read_bytes() == held for name, held in before.items())
    kids = [[Run(run.path / "connectivity" / f"child{c}_{i}") for c in (1, 2)] for i in (0, 1)]
    for i, pair in enumerate(kids):
        assert not equal(*map(weights, pair))
        for kid in pair:
            assert StateFile.load(kid.state_path(kid.latest()[0])).agent_steps == 384
            assert kid.metrics()[0]["epoch"] == (2, 4)[i]  # after epochs 1 and 3, of 6
    found = json.loads((run.path / "connectivity" / "all_forks_results.json").read_text())
    assert [f["epoch"] for f in found] == [1, 3] and [f["step"] for f in found] == [64, 192]
    assert all(len(f["interpolation"]) == 3 and f["episodes"] == 4 for f in found)
    made = {path.name for path in (run.path / "connectivity" / "fork_analysis").iterdir()}
    assert {
        "all_interpolations.png",
        "interp_fork_0.png",
        "instability_over_time.png",
        "overview.png",
    } <= made
    assert Run.open("experiments/a").latest()[0] == 6  # the finder still finds the run itself
    ran(capsys, "--mode", "report", "--exp-id", "a")
    assert "<h2>Forks</h2>" in (run.path / "report.html").read_text()
    again = ran(capsys, *FORK, "--fork-points", "0.2,0.5")
    assert "child" not in again.split("fork  epoch")[0].replace("fork 0", "").replace("fork 1", "")


def test_children_with_the_same_data_play_in_the_same_environments_and_with_fresh_in_others(capsys):
    run = trained(capsys)
    seeds = {}
    for data in ("same", "fresh"):
        ran(capsys, *FORK, "--fork-points", "0.5", "--fork.data", data)
        kids = [Run(run.path / "connectivity" / f"child{c}_0") for c in (1, 2)]
        seeds[data] = [kid.config()["settings"]["train"]["seed"] for kid in kids]
        assert not equal(*map(weights, kids))
        (run.path / "connectivity").rename(run.path / f"was_{data}")
    assert seeds["same"][0] == seeds["same"][1] and seeds["fresh"][0] != seeds["fresh"][1]
    assert len({*seeds["same"], *seeds["fresh"], 0}) >= 3


def test_a_child_that_was_killed_goes_on_and_one_that_is_done_is_left_alone(capsys):
    run = trained(capsys)
    ran(capsys, *FORK, "--fork-points", "0.2")
    kids = [Run(run.path / "connectivity" / f"child{c}_0") for c in (1, 2)]
    done = kids[0].latest()[1].read_bytes()
    for path in (kids[1].model_path(6), kids[1].state_path(6), kids[1].model_path(5), kids[1].state_path(5)):
        path.unlink()
    (run.path / "connectivity" / "forks" / "instability_0.json").unlink()
    ran(capsys, *FORK, "--fork-points", "0.2")
    assert kids[1].latest()[0] == 6 and kids[0].latest()[1].read_bytes() == done


@pytest.mark.parametrize(
    "points, said",
    [
        ("0.99", "nothing is left to train"),
        ("0.5,0.2", "rising order"),
        ("0.16,0.18", "have one checkpoint"),
        ("2", "between 0 and 1"),
    ],
)
def test_forks_that_cannot_be_are_refused(capsys, points, said):
    trained(capsys)
    assert said in ran(capsys, *FORK, "--fork-points", points, ends=2)
    assert not list(Path("experiments/a").glob("connectivity/child*"))


def test_no_run_no_fork(capsys):
    assert "nothing to fork" in ran(capsys, "--mode", "fork", ends=2)
    assert "nobody" in ran(capsys, "--mode", "fork", "--exp-id", "nobody", ends=2)


def collapsed(capsys, *more):
    run = trained(capsys, *more)
    ran(capsys, *SMALL, *more, "--collapse", "1.2", "--collapse-epoch", "3")
    return run


@pytest.mark.parametrize("rnn", [(), ("--base.rnn-name", "Recurrent")], ids=["mlp", "lstm"])
def test_lines_from_a_run_to_its_collapse_and_on(capsys, rnn):
    run = collapsed(capsys, *rnn)
    said = ran(capsys, "--mode", "connectivity", *LINE)
    found = json.loads((run.path / "connectivity.json").read_text())
    pairs = [(line["from"], line["to"]) for line in found["lines"]]
    assert pairs == [(one, other) for one, other, _ in valley.LINES] and "connectivity.png" in said
    assert found["collapsed_params"] < found["params"] and (run.path / "connectivity.png").is_file()
    (folder,) = run.collapses()
    (offspring,) = folder.runs()
    again = ran(capsys, "--mode", "connectivity", "--vec", "serial", "--exp-id", offspring.exp_id, *LINE[4:])
    assert str(folder.path) in again  # named by the retrained run, the same lines
    page = "Lines in weight space"
    ran(capsys, "--mode", "report", "--exp-id", "a")
    assert page in (run.path / "report.html").read_text()
    run.lines_path.unlink()
    ran(capsys, "--mode", "report", "--exp-id", "a")
    assert page not in (run.path / "report.html").read_text()


@pytest.mark.parametrize("rnn", [(), ("--base.rnn-name", "Recurrent")], ids=["mlp", "lstm"])
def test_every_point_of_a_collapse_line_computes_what_its_small_policy_does(capsys, rnn):
    run = collapsed(capsys, *rnn)
    (folder,) = run.collapses()
    (offspring,) = folder.runs()
    source = RunSource(run=run, vec="serial")
    points = valley.points(source, folder, offspring)
    small = {"collapse": folder.model_path, "collapse, even": folder.model_path}
    fibers = FibersFile.load(folder.fibers_path).spaces
    labels = {name: space.labels for name, space in fibers.items() if space.fibers < space.units}
    assert labels
    for name, path in [*small.items(), ("retrained", offspring.latest()[1])]:
        restored = source.read(path)
        little, large = restored.policy.eval(), points[name].eval()
        obs, *state = restored.example_inputs
        wide = [tuple(wide_state(x, labels, large) for x in state[0])] if state else []
        torch.testing.assert_close(little(obs, *state)[0], large(obs, *wide)[0], atol=1e-5, rtol=1e-4)
    nearest, even = (distance(points["original"], points[name]) for name in ("collapse", "collapse, even"))
    assert nearest <= even


def wide_state(x, labels, large):
    """A recurrent state of the small policy, repeated for the large one's units."""
    width = large.recurrent.hidden_size
    if x.shape[-1] == width:
        return x
    return x[..., torch.as_tensor(next(own for name, own in labels.items() if "recurrent" in name))]


def test_a_run_without_a_collapse_has_no_line(capsys):
    trained(capsys)
    assert "has no collapse to walk to" in ran(capsys, "--mode", "connectivity", *LINE, ends=2)


# --- the programs of experiments/ -----------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    root = tmp_path_factory.mktemp("experiment")
    p = small_forks.plan(algo="SAC")
    folder, p, lock = forking.taken(p, root, anew=True)
    with lock:
        small_forks.run_here(folder, p)
        forking.write_json(folder.all_path, folder.forks())
    return folder


def program(monkeypatch, run, *words):
    monkeypatch.setattr("sys.argv", ["x", *map(str, words)])
    return programs.program("experiments.x", run)


def test_figures_of_an_experiment(monkeypatch, capsys, experiment):
    assert (
        program(monkeypatch, programs.analyze, "--results_dir", experiment.results, "--total_steps", 500) == 0
    )
    names = {path.name for path in experiment.figures.iterdir()}
    assert names == {
        *("all_interpolations.png", "interp_fork_0.png", "interp_fork_1.png"),
        *("instability_over_time.png", "overview.png"),
    }
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in experiment.figures.iterdir())
    assert f"wrote {experiment.figures}" in capsys.readouterr().out


def test_forks_of_the_published_program_are_drawn_too(monkeypatch, experiment, tmp_path):
    """Which writes less of each."""
    forks = experiment.forks()
    keys = (
        "fork_id",
        "fork_point",
        "fork1_reward",
        "fork2_reward",
        "interpolation",
        "instability",
        "is_stable",
    )
    old = tmp_path / "old"
    (old / "forks").mkdir(parents=True)
    (old / "config.json").write_text("{}")
    (old / "all_forks_results.json").write_text(json.dumps([{k: f[k] for k in keys} for f in forks]))
    assert program(monkeypatch, programs.analyze, "--results_dir", old) == 0
    assert (old / "fork_analysis" / "all_interpolations.png").is_file()


def test_two_weights_are_compared(monkeypatch, capsys, experiment, tmp_path):
    a, b = (experiment.child_path(1, child) for child in (1, 2))
    words = (a, b, "--alphas", 3, "--episodes", 3, "--jobs", 1, "--aligned", "--output", tmp_path)
    assert program(monkeypatch, programs.compare, *words) == 0
    found = json.loads((tmp_path / "lmc_results.json").read_text())
    assert len(found["interpolation"]) == 3 and (tmp_path / "lmc_plot.png").is_file()
    assert found["distance"] == pytest.approx(distance(end_of(a).policy, end_of(b).policy))
    assert "barrier" in capsys.readouterr().out
    whole = program(monkeypatch, programs.compare, experiment.weights, b, *words[2:])  # its final.pt
    assert whole == 0


def test_neurons_in_another_order_are_matched_and_nothing_is_left_between(monkeypatch, experiment, tmp_path):
    a = experiment.child_path(1, 1)
    held = read(a)
    order = torch.randperm(256)
    actor = {name: x.clone() for name, x in held["actor"].items()}
    for name in ("latent_pi.0.weight", "latent_pi.0.bias"):
        actor[name] = actor[name][order]
    actor["latent_pi.2.weight"] = actor["latent_pi.2.weight"][:, order]
    b = tmp_path / "b.pt"
    torch.save({**held, "actor": actor}, b)
    words = (a, b, "--alphas", 5, "--episodes", 3, "--jobs", 1, "--aligned", "--output", tmp_path)
    assert program(monkeypatch, programs.compare, *words) == 0
    found = json.loads((tmp_path / "lmc_results.json").read_text())
    assert found["distance"] > 1 and found["aligned"]["distance"] < 1e-6 and found["aligned"]["moved"] > 200
    flat = [place["mean_reward"] for place in found["aligned"]["interpolation"]]
    assert np.ptp(flat) < 1e-2 * abs(flat[0])


def spoiled(tmp_path, experiment, change):
    held = read(experiment.final_path)
    change(held)
    path = tmp_path / "spoiled.pt"
    torch.save(held, path)
    return path


def narrow(held):
    for name in ("latent_pi.0.weight", "latent_pi.0.bias"):
        held["actor"][name] = held["actor"][name][:7]
    held["actor"]["latent_pi.2.weight"] = held["actor"]["latent_pi.2.weight"][:, :7]


@pytest.mark.parametrize(
    "change, said",
    [
        (narrow, "trunk.0.weight is"),
        (lambda held: held["actor"]["mu.bias"].fill_(float("nan")), "actor.mu.bias that are not finite"),
        (lambda held: held.update(env="Hopper-v5"), "no line lies between them"),
    ],
)
def test_weights_that_have_no_line_are_refused_by_what_differs(
    monkeypatch, capsys, experiment, tmp_path, change, said
):
    other = spoiled(tmp_path, experiment, change)
    out = tmp_path / "out"
    status = program(monkeypatch, programs.compare, experiment.final_path, other, "--output", out)
    error = capsys.readouterr().err
    assert status == 2 and said in error and error.count("\n") == 1
    assert not (out / "lmc_results.json").exists()


@pytest.mark.parametrize(
    "run, words, said",
    [
        (programs.compare, ["none.pt", "none.pt"], "none.pt"),
        (programs.compare, [".", "."], "neither final.pt nor a run"),
        (programs.compare, ["a", "b", "--alphas", "1"], "--alphas = 1"),
        (programs.analyze, ["--results_dir", "none"], "does not exist"),
        (programs.analyze, [], "--results_dir"),
        (programs.run_env, ["--env", "CartPole-v1"], "real numbers"),
        (programs.run_env, ["--env", "Hoper-v5"], "did you mean"),
        (programs.run_env, ["--algo", "sac"], "expected SAC or DDPG"),
        (programs.run_env, ["--alphas", "1"], "--alphas = 1"),
        (programs.run_env, ["--fork-points", "0.5,0.1"], "rising order"),
        (programs.run_env, ["--device", "tpu"], "device"),
        (programs.run_env, ["--nonsense"], "unrecognized"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_made(monkeypatch, capsys, here, run, words, said):
    status = program(monkeypatch, run, *words)
    error = capsys.readouterr().err
    assert status == 2 and said in error and error.count("\n") == 1, error
    assert not (here / "results").exists() and not (here / "model_weights").exists()


def test_a_buffer_larger_than_memory_is_refused_before_it_starts(monkeypatch, capsys, here):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 2**20})())
    assert program(monkeypatch, programs.run_env, "--env", "Humanoid-v5") == 2
    assert "GiB" in capsys.readouterr().err and not (here / "results").exists()
