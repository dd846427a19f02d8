"""Progress: what is said of long work, and to whom."""

from pufferlib_kcore.jobs import progress
from pufferlib_kcore.jobs.progress import counted


def test_work_says_its_part_its_time_and_what_is_left():
    now = iter([0.0, 30.0, 60.0])
    work = progress.Work("recording", lambda: next(now))
    assert str(work) == "recording: 30 s"
    work(0.25, "note")
    assert str(work) == "recording: 25%, note, 60 s, about 3 min left"


def test_redirected_work_is_told_in_plain_lines_from_the_start_on(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.001)
    said = ""
    with progress.shown("searching") as work:
        work(0.5)
        while "50%" not in said:
            said += capsys.readouterr().out
    assert said.startswith("searching ...\nsearching: ") and "\r" not in said and "\x1b" not in said
    assert list(counted([1, 2, 3], 3, "three", progress.shown)) == [1, 2, 3]
    out, err = capsys.readouterr()
    assert "three ...\n" in out and err == ""


def test_a_person_sees_a_bar_and_stdout_stays_as_it_is(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress.shown("searching") as work:
        work(0.5, "10% of the parameters")
        print("a line")
    out, err = capsys.readouterr()
    assert out == "a line\n" and "searching" in err and "10% of the parameters" in err
