"""Laws of the comparison: both runs are drawn as logged, the collapse where it was, the page holds all."""

import base64
import io
import json
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from pufferlib_kcore.analysis import compare, figures
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import FiberHistory, FibersFile, Run, SpaceFibers
from pufferlib_kcore.store.provenance import versions

BATCH = 30720


def record(epoch, value=None, batch=BATCH):
    measured = {"SPS": 2600.0, "episode_return": value, "episodes": 1}
    return {"epoch": epoch, "agent_steps": epoch * batch, **measured}


def logged(run, epochs, value=lambda epoch: 400.0 + epoch):
    for epoch in epochs:
        run.log(record(epoch, value(epoch)))
    return run


def space(units, fibers, kind="linear", reason=None, **more):
    labels = np.r_[np.arange(fibers), np.zeros(units - fibers, int)].astype(np.int64)
    return SpaceFibers(kind, labels, reason, **more)


def history(epochs, fibers, units=64, params=None, spaces=("conv", "lstm"), single=None):
    lists = {"kind": "cnn", "units": [units] * len(epochs), "fibers": list(fibers)}
    told = {name: lists for name in spaces}
    if single is not None:
        told[single] = {"kind": "critic", "units": [1] * len(epochs), "fibers": [1] * len(epochs)}
    return {"epochs": list(epochs), "spaces": told, "params": params}


@pytest.fixture
def pair(tmp_path):
    """A run of 300 epochs, and the run resumed from its collapse at epoch 51."""
    original = logged(Run.create(tmp_path / "experiments", "beam_rider"), range(1, 301))
    folder = original.collapse_folder(0.3, 51)
    collapsed = logged(Run.create(folder.path, "beam_rider"), range(52, 301), lambda epoch: 390.0 + epoch)
    spaces = {"conv": space(64, 20, "cnn", params_before=900, params_after=300), "value": space(1, 1)}
    FibersFile(epoch=51, thresholds=0.3, spaces=spaces).save(folder.fibers_path)
    header = f"run={collapsed.path} env=beam_rider collapse_epoch=51 threshold=0.3"
    lines = [f"{header} params_before=1000 params_after=250"]
    for item in collapsed.metrics():
        lines.append(" ".join(f"{key}={value}" for key, value in item.items()))
    (collapsed.path / "log_collapsed.out").write_text("\n".join(lines) + "\n")
    return original, collapsed


def line(axis, label):
    found = [item for item in axis.get_lines() if item.get_label().startswith(label)]
    assert len(found) == 1, [item.get_label() for item in axis.get_lines()]
    return found[0]


def panels(figure):
    return {axis.get_ylabel() or "bars": axis for axis in figure.axes}


# --- what is compared ---------------------------------------------------------------------------


def test_runs_folders_and_logs_tell_the_same(pair, tmp_path):
    original, collapsed = pair
    by_run = compare(original, collapsed)
    by_folder = compare(str(original.path), collapsed.path)
    by_log = compare(original.metrics_path, collapsed.path / "log_collapsed.out")
    for comparison in (by_run, by_folder, by_log):
        what = "collapsed at epoch 51, threshold 0.3, 1,000 → 250 parameters (25.0%)"
        name = str(original.metrics_path) if comparison is by_log else "beam_rider"
        assert comparison.title == f"{name}, {what}"
        assert comparison.collapse_steps == 51 * BATCH
        assert comparison.table == by_run.table and len(comparison.table) == 2
        assert comparison.original.curve.returns.tolist() == [400.0 + epoch for epoch in range(1, 301)]
        assert comparison.collapsed.curve.epochs.tolist() == list(range(52, 301))
    assert comparison.png() and not list(tmp_path.glob("*.png"))


def test_the_tables_say_what_was_logged_and_collapsed(pair):
    comparison = compare(*pair)
    first, second = comparison.summary
    assert (first["epochs"], second["epochs"]) == ("1 to 300", "52 to 300")
    assert first["final return"] == pytest.approx(np.mean([400 + epoch for epoch in range(271, 301)]))
    assert (first["parameters"], second["parameters"]) == (1000, 250)
    assert first["agent steps"] == 300 * BATCH and first["steps/s"] == 2600
    conv, value = comparison.table
    assert {**conv} == {
        **{"space": "conv", "kind": "cnn", "units": 64, "fibers": 20},
        **{"params_before": 900, "params_after": 300},
    }
    assert (value["space"], value["params_before"]) == ("value", None)
    assert "conv" in str(comparison) and "1 to 300" in str(comparison)


def test_a_folder_without_a_header_still_tells_the_collapse_by_its_name(tmp_path):
    original = logged(Run.create(tmp_path, "pong"), range(1, 31))
    thresholds = {"linear": 0.25, "lstm": 1.0}
    collapsed = logged(Run.create(original.collapse_folder(thresholds, 12).path, "pong"), [13])
    comparison = compare(original, collapsed)
    assert (comparison.collapse_epoch, comparison.thresholds) == (12, thresholds)
    assert comparison.title == "pong, collapsed at epoch 12, threshold linear 0.25 lstm 1"
    assert comparison.params is None and comparison.table == []


def test_bare_logs_mark_the_collapse_before_the_resumed_runs_first_epoch(tmp_path):
    for name, epochs in (("a", range(1, 10)), ("b", range(5, 10))):
        lines = [f"epoch={epoch} agent_steps={100 * epoch} episode_return=1.0" for epoch in epochs]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert (comparison.collapse_epoch, comparison.collapse_steps) == (4, 400)


def test_a_run_that_was_not_collapsed_yet_is_shown_alone(pair):
    comparison = compare(pair[0])
    assert comparison.title == "beam_rider" and comparison.collapse_steps is None
    assert len(comparison.summary) == 1 and list(panels(comparison.figure)) == ["episode return"]


def test_a_run_that_was_not_collapsed_has_its_parameters(pair, tmp_path):
    original = pair[0]
    told = history([3, 6], [9, 8], params=[1000, 1000])
    (original.path / "fibers_over_time.json").write_text(json.dumps(told))
    comparison = compare(original)
    assert comparison.summary[0]["parameters"] == 1000 and comparison.title.endswith(", 1,000 parameters")
    (original.path / "log.out").write_text(f"run={original.path} env=beam_rider params=1234\n")
    assert compare(original).summary[0]["parameters"] == 1234


def test_what_cannot_be_compared_is_one_sentence(tmp_path):
    run = Run.create(tmp_path, "pong")
    with pytest.raises(UserError, match="has logged no epoch yet"):
        compare(run)
    with pytest.raises(UserError, match="cannot read"):
        compare(tmp_path / "none.out")
    with pytest.raises(UserError, match="holds no run"):
        compare(tmp_path)
    with pytest.raises(UserError, match="fibers.pkl"):
        compare(logged(run, [1]), fibers=tmp_path / "fibers.pkl")


# --- the figure ---------------------------------------------------------------------------------


def test_the_dots_of_the_returns_have_a_legend(pair):
    axis = panels(compare(*pair).figure)["episode return"]
    assert any("dots" in text.get_text() for text in axis.get_legend().get_texts())


def test_returns_are_drawn_over_agent_steps_and_the_collapse_is_marked(pair):
    comparison = compare(*pair)
    axis = panels(comparison.figure)["episode return"]
    for name, run in comparison.runs():
        drawn = line(axis, name)
        assert drawn.get_xdata().tolist() == run.curve.steps.tolist()
        assert np.allclose(drawn.get_ydata(), run.curve.smoothed())
    assert line(axis, "collapse at epoch 51").get_xdata() == [51 * BATCH] * 2
    assert axis.get_legend() is not None and comparison.figure.get_suptitle() == comparison.title
    top = axis.child_axes[0]
    assert top.get_xlabel() == "epoch"
    comparison.figure.canvas.draw()
    assert top.get_xlim()[1] == pytest.approx(axis.get_xlim()[1] / BATCH)


def test_without_a_history_the_spaces_of_the_collapse_are_bars(pair):
    shown = panels(compare(*pair).figure)
    assert list(shown) == ["episode return", "bars", "parameters"]
    widths = sorted(bar.get_width() for bar in shown["bars"].patches)
    assert widths == [20, 64]  # a single unit has nothing to merge with
    assert [text.get_text() for text in shown["bars"].get_yticklabels()] == ["conv"]


def test_fibers_over_time_are_shares_of_the_units_before_the_collapse(pair):
    given = {
        "original": history([10, 51, 300], [64, 32, 16], params=[1000] * 3, single="value"),
        "collapsed": history([60, 300], [32, 8], units=32, params=[250, 250]),
    }
    shown = panels(compare(*pair, fiber_history=given).figure)
    assert list(shown) == ["episode return", "fibers / original units", "parameters"]
    drawn = {}
    for item in shown["fibers / original units"].get_lines():
        if not item.get_label().startswith("collapse at"):
            drawn.setdefault(item.get_linestyle(), []).append(item.get_xydata().tolist())
    solid = [[10 * BATCH, 1.0], [51 * BATCH, 0.5], [300 * BATCH, 0.25]]
    dashed = [[60 * BATCH, 0.5], [300 * BATCH, 0.125]]
    assert drawn == {"-": [solid, solid], "--": [dashed, dashed]}
    params = shown["parameters"]
    end = 300 * BATCH
    assert line(params, "original policy").get_xydata().tolist() == [[0, 1000], [end, 1000]]
    assert line(params, "collapsed policy").get_xydata().tolist() == [[51 * BATCH, 250], [end, 250]]


def test_a_history_kept_in_a_runs_folder_is_found(pair):
    for run, first in zip(pair, (10, 60), strict=True):
        FiberHistory.of(history([first], [5])).save(run.path / "fibers_over_time.json")
    comparison = compare(*pair)
    assert {name: found.epochs.tolist() for name, found in comparison.histories.items()} == {
        **{"original": [10], "collapsed": [60]}
    }
    other = compare(*pair, fiber_history={"original": history([7, 8], [5, 5])})
    assert other.histories["original"].epochs.tolist() == [7, 8]


def test_many_spaces_are_drawn_by_kind(pair):
    names = [f"blocks.{i}" for i in range(40)]
    figure = compare(*pair, fiber_history={"original": history([1, 2], [9, 8], spaces=names)}).figure
    axis = panels(figure)["fibers / original units"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["cnn (40 spaces)", "original run"]
    spaces = {name: space(10 + i, 5) for i, name in enumerate(names)}
    bars = panels(compare(*pair, fibers=FibersFile(epoch=51, thresholds=0.3, spaces=spaces)).figure)["bars"]
    assert [text.get_text() for text in bars.get_yticklabels()] == names[-figures.BARS :]
    assert bars.get_xlabel() == f"neurons at the collapse, the {figures.BARS} largest of 40 spaces"


@pytest.mark.parametrize("returns", [[None], [None, None, None], [5.0], [None, 5.0, None]])
def test_short_runs_and_runs_without_episodes_are_drawn(tmp_path, returns):
    run = Run.create(tmp_path, "pong")
    for i, value in enumerate(returns):
        run.log(record(i + 1, value))
    resumed = Run.create(run.collapse_folder(2, len(returns)).path, "pong")
    resumed.log(record(len(returns) + 1))
    figure = compare(run, resumed).figure
    axis = panels(figure)["episode return"]
    words = [text.get_text() for text in axis.texts]
    measured = [value for value in returns if value is not None]
    assert words == ([] if measured else ["no episode finished"])
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert "collapsed (no episode finished)" in labels
    drawn = line(axis, "original")
    assert set(drawn.get_ydata()) == set(measured)
    assert drawn.get_marker() == ("o" if len(drawn.get_xdata()) == 1 else "None")
    assert pixels(compare(run, resumed)).std() > 0


def pixels(comparison):
    return imread(io.BytesIO(comparison.png(dpi=40)))


def test_a_figure_leaves_matplotlib_as_it_was(pair):
    before = dict(matplotlib.rcParams)
    compare(*pair).png()
    assert dict(matplotlib.rcParams) == before
    code = "import sys, pufferlib_kcore.analysis; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True)
    assert done.split()[-1] == "False"


def test_short_numbers():
    assert [figures.short(x) for x in (1_228_800, 92_160, 440, 0.5, 0, 3e9)] == [
        *("1.23M", "92.2k", "440", "0.5", "0", "3G")
    ]


# --- the page -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see: tags, addresses, text."""

    VOID = {"meta", "link", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_provenance_sets_the_runs_beside_each_other(pair):
    pair[0].write_config({"seed": 7, "versions": {"torch": "2.5.0"}, "git_commit": "abc", "git_dirty": False})
    table = {row.pop(""): row for row in compare(*pair).provenance}
    assert table["seed"] == {"original": "7", "this report": None}
    assert table["git_dirty"]["original"] == "False"
    assert table["versions torch"]["original"] == "2.5.0"
    assert table["versions torch"]["this report"] == versions()["torch"]


def test_the_page_holds_all_it_shows_and_loads_nothing(pair, tmp_path):
    comparison = compare(*pair)
    path = comparison.save_html(tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and "iframe" not in page.tags and "@import" not in text
    assert all(address.startswith("data:") for address in page.addresses)
    image = next(address for address in page.addresses if address.startswith("data:image/png;base64,"))
    assert base64.b64decode(image.partition(",")[2]) == comparison.png()
    words = " ".join(page.words)
    wanted = (comparison.title, pair[1].exp_id, "9,216,000", "conv", "Final return", "git_commit", "numpy")
    for told in wanted:
        assert told in words, told
    assert page.tags.count("table") == 3


def test_names_and_settings_are_text_in_the_page_whatever_they_hold(tmp_path):
    evil = "<script>alert(1)</script><img src=http://x onerror=y>\"'&"
    run = logged(Run.create(tmp_path, evil), range(1, 4))
    run.write_config({evil: evil})
    spaces = {evil: space(9, 3, reason=evil)}
    page = Page(compare(run, fibers=FibersFile(epoch=3, thresholds=0.3, spaces=spaces)).html())
    assert "script" not in page.tags and all(address.startswith("data:") for address in page.addresses)
    words = " ".join(page.words)
    assert words.count(evil) >= 4 and json.dumps(evil) in words


def test_a_page_or_picture_that_cannot_be_written_is_one_sentence(pair, tmp_path):
    for save in (compare(*pair).save_html, compare(*pair).save_png):
        with pytest.raises(UserError, match="cannot write"):
            save(tmp_path / "nowhere" / "file")
    assert compare(*pair).save_png(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
