"""What cannot be used or does not fit is one sentence, whatever part of the system says it first."""

import pytest

from pufferlib_kcore import cli
from pufferlib_kcore.cli import batch, recipes
from pufferlib_kcore.environments import vector
from pufferlib_kcore.errors import RunFailed, UserError

LONG = "x" * 300


def refusal(words, capsys, program=cli.main):
    status, (out, err) = program(words), capsys.readouterr()
    assert status in (1, 2) and out == "" and err.count("\n") == 1 and len(err) < 300, (status, out, err)
    return err


@pytest.mark.parametrize(
    "words",
    [
        ["--train.data-dir", LONG, "--resume"],
        ["--train.data-dir", LONG, "--mode", "report"],
        ["--config", LONG],
        ["--mode", "eval", "--eval-model-path", LONG],
    ],
)
def test_a_path_that_is_too_long(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "xxx...': File name too long" in refusal(["--env", "cartpole", *words], capsys)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_runs_whose_name_is_too_long(capsys):
    assert "File name too long" in refusal(["--exp-name", "t1", "--train-dir", LONG], capsys, batch.main)


@pytest.mark.parametrize("name", ["a/b", "..", ".", ".hidden", "collapsed_model_thr_03_000051"])
def test_a_new_run_that_cannot_be_called_so_is_refused_before_anything_starts(
    name, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.importlib, "import_module", lambda module: pytest.fail(f"{module} was started"))
    assert repr(name) in refusal(["--env", "cartpole", "--exp-id", name], capsys)


@pytest.mark.parametrize(
    "words, says",
    [
        (["--base.policy-name", "Fats"], "unknown policy 'Fats': did you mean Fast? (register yours"),
        (
            ["--base.rnn-name", "LSTMRapper"],
            "unknown recurrent policy 'LSTMRapper': did you mean LSTMWrapper?",
        ),
    ],
)
def test_a_policy_that_is_not_registered_is_refused_before_environments_start(
    words, says, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vector, "make", lambda *_: pytest.fail("environments were started"))
    assert says in refusal(["--env", "cartpole", *words], capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error, status",
    [
        (MemoryError(), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"), 1),
        (RuntimeError("CUDA out of memory."), 1),
        (PermissionError(13, "Permission denied", "a place"), 2),
        (UserError("so it is"), 2),
    ],
)
def test_what_the_system_says_is_said_in_one_sentence(error, status, capsys):
    def run():
        raise error

    assert cli.answered("p", run, "cure") == status
    err = capsys.readouterr().err
    assert err.startswith("p: ") and err.count("\n") == 1 and "Traceback" not in err


def test_a_fault_of_ours_is_no_sentence():
    def run():
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError):
        cli.answered("p", run, "cure")


def test_a_run_that_fails_is_told_of_by_the_program_that_ran_it(capsys, monkeypatch):
    def fails(*_):
        raise RunFailed("training diverged in epoch 3")

    monkeypatch.setattr(cli, "run", fails)
    for program, main, words in (
        ("demo.py", cli.main, ["--env", "cartpole"]),
        ("run.py", recipes.main, ["experiments.recipes.cartpole.train", "--args", "run=t"]),
    ):
        assert main(words) == 1
        assert capsys.readouterr().err == f"{program}: training diverged in epoch 3\n"
