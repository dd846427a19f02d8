"""Laws of a batch's report: what counts is counted, what failed is shown, and the page needs nothing else."""

import base64
import csv
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from made_up import ENDS, entry, history
from matplotlib.figure import Figure

from pufferlib_kcore.analysis import batch, batch_figures, batch_tables, groups, verdict
from pufferlib_kcore.analysis.batch import Entry
from pufferlib_kcore.analysis.curves import Curve
from pufferlib_kcore.errors import UserError


def grouped(entries):
    return groups.grouped(map(groups.Result.of, entries))


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """What a browser would see: tags, links, pictures, cells."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.pictures, self.words, self.text = [], [], [], [], path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        self.links += [given["href"]] if tag == "a" else []
        self.pictures += [given["src"]] if tag == "img" else []
        assert not any(name.startswith("on") for name in given)

    def handle_data(self, data):
        self.words.append(data)


# --- what is compared ---------------------------------------------------------------------------


def test_runs_are_grouped_by_place_and_setting_and_share_the_originals(made_up):
    found = grouped(made_up(exps=("t1", "t2")))
    assert [(group.exp, group.setting) for group in found] == [
        *(("t1", "0.7_0.5_1_0.8"), ("t1", "params0.05")),
        *(("t2", "0.7_0.5_1_0.8"), ("t2", "params0.05")),
    ]
    for group in found:
        assert {kind: len(runs) for kind, runs in group.runs.items()} == dict.fromkeys(ENDS, 3)
        assert {run.entry.exp for runs in group.runs.values() for run in runs} == {group.exp}
    assert found[0].kept("collapsed") == pytest.approx(0.21) and found[1].kept("scratch") == pytest.approx(
        0.05
    )


def test_the_final_return_is_the_mean_of_the_last_tenth(tmp_path):
    one = entry(tmp_path, "t1", 3, "collapsed", "x", 1)
    one.path.mkdir()
    lines = [f'{{"epoch": {i}, "agent_steps": {10 * i}, "episode_return": {i}}}' for i in range(1, 31)]
    (one.path / "metrics.jsonl").write_text("\n".join([*lines, '{"epoch": 31, "agent_st']))
    run = groups.Result.of(one)
    assert run.final == 29.0 and run.steps == 300 and run.counts


@pytest.mark.parametrize("status", ["failed", "unfinished", "skipped"])
def test_only_runs_that_are_done_count(made_up, status):
    entries = made_up(seeds=4)
    place = next(i for i, e in enumerate(entries) if e.kind == "collapsed")
    entries[place] = replace(entries[place], status=status)
    first, second = grouped(entries)
    assert first.final["collapsed"].seeds == 3 and second.final["collapsed"].seeds == 4
    text = str(batch_tables.final_table([first]))
    assert "n=3 of 4" in text and "n=4" in text


def test_a_kind_or_status_that_is_not_known_is_one_sentence(made_up, tmp_path):
    one = made_up(seeds=1)[0]
    for wrong in (replace(one, kind="pruned"), replace(one, status="lost")):
        with pytest.raises(UserError, match="expected one of"):
            batch.write(tmp_path / "report", "t", [wrong])
    with pytest.raises(UserError, match="without runs"):
        batch.write(tmp_path / "report", "t", [])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make"):
        batch.write(tmp_path / "file" / "report", "t", [one])


# --- the verdict --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ends, word", [({}, "lower"), ({"original": 300.0}, "higher"), ({"original": 394.0}, "not told apart")]
)
def test_the_verdict_says_on_which_side_the_intervals_lie(made_up, ends, word):
    (group,) = grouped(made_up([("0.3", 0.5)], seeds=5, ends={**ENDS, **ends}, spread=4.0))
    own, other = group.final["collapsed"], group.final["original"]
    assert verdict.standing(group, "original") == word
    assert own.apart(other) == (word != "not told apart")
    told = " ".join(verdict.single(group))
    assert f"{word.capitalize()} " in told and str(own) in told and str(other) in told
    assert verdict.probability(group.improvement["original"]) in told
    assert "by chance" not in told
    assert f"Collapsed against original, 1 setting: {word} in 1." in list(verdict.overall([], [group]))


def test_few_seeds_that_part_are_called_doubtful(made_up):
    (group,) = grouped(made_up([("0.3", 0.5)]))
    assert verdict.by_chance(group, "ablated") and group.improvement["ablated"].value == 1
    assert "p is 0.1 or more" in " ".join(verdict.single(group))
    assert "higher in 1 (1 with p above 0.05)" in " ".join(verdict.overall([], [group]))


def test_experiments_of_other_scales_are_put_together(made_up):
    found = grouped(made_up([("0.3", 0.5)], exps=("t1", "t2"), spread=0.1))
    (row,) = batch_tables.across(found)
    change = np.mean([group.final["collapsed"].value / group.final["original"].value - 1 for group in found])
    assert row["experiments"] == 2 and row["collapsed, change"].startswith(f"{change:+.1%} [")
    assert row["collapsed over scratch"] == "1.00 [1.00, 1.00]"
    assert batch_tables.across(found[:1]) == []


# --- the figures --------------------------------------------------------------------------------


def curve(start, end, value):
    steps = np.arange(start, end + 1, 10)
    ones = np.ones(len(steps))
    return Curve(steps // 10, steps, value * ones, ones)


def test_seeds_are_put_on_the_steps_that_all_reached():
    steps, middle, low, high = batch_figures.common(
        [curve(0, 100, 1.0), curve(20, 90, 2.0), curve(0, 80, 6.0)]
    )
    assert (steps[0], steps[-1]) == (20, 80) and np.allclose(middle, 3.0)
    assert np.allclose(low, 1.0) and np.allclose(high, 6.0)
    nothing = Curve(np.arange(3), np.arange(3), np.full(3, np.nan), np.zeros(3))
    for curves in ([], [nothing], [curve(0, 10, 1.0), curve(50, 90, 1.0)]):
        assert [len(part) for part in batch_figures.common(curves)] == [0] * 4


def test_the_front_holds_what_nothing_smaller_reaches():
    points = [(0.2, 5.0), (0.1, 3.0), (0.2, 4.0), (0.5, 4.5), (1.0, 6.0)]
    assert batch_figures.front(points) == [(0.1, 3.0), (0.2, 5.0), (1.0, 6.0)]


def test_points_of_one_size_stand_at_one_place(made_up):
    found = grouped(made_up([("0.3", 0.5)]))
    axis = Figure().subplots()
    ((_, draw),) = batch_figures.sizes(found)
    draw(axis)
    places = [line.get_xdata() for line in axis.lines if line.get_marker() in "o^D"]
    assert len(places) == 3 and len({float(x[0]) for x in places}) == 1
    assert float(places[0][0]) == found[0].kept("collapsed")


def test_fibers_of_a_collapsed_run_are_a_part_of_the_originals_units():
    ((_, draw),) = batch_figures.fibers(
        {"c": history([0], spaces=("lstm",))}, {"c": "collapsed"}, {"c": {"lstm": 640}}
    )
    axis = Figure().subplots()
    draw(axis)
    assert axis.lines[0].get_ydata()[0] == pytest.approx(64 / 640)  # 64 units are left of 640
    assert "lstm (640)" in [text.get_text() for text in axis.get_legend().get_texts()]


def test_a_setting_is_told_in_words():
    assert groups.told("0.7_0.5_1.0_0.8") == "linear 0.7, cnn 0.5, lstm 1.0, critic 0.8"
    assert groups.told("params0.05") == "searched for 5% of the parameters"
    assert (groups.told(""), groups.told("0.3")) == ("", "0.3")


def test_the_page_tells_settings_and_kl_and_has_parts_of_what_is_about_as_tables(made_up, tmp_path):
    entries = [replace(e, kl=0.0123 if e.kind == "collapsed" else None) for e in made_up(seeds=2)]
    about = {"command": "bash kcore.sh", "versions": {"torch": "2.13", "ale-py": None}}
    page = Page(batch.write(tmp_path / "report", "t1 on cartpole", entries, about=about))
    assert "linear 0.7, cnn 0.5, lstm 1, critic 0.8" in page.words and "0.012" in page.words
    assert "in this order: linear, cnn, lstm, critic" in page.text and "{'" not in page.text
    assert {"torch", "2.13", "versions"} <= set(page.words) and "ale-py" not in page.words
    kl = {row["kind"]: row["kl"] for row in rows(tmp_path / "report/finals.csv")}
    assert kl["collapsed"] == "0.0123" and kl["original"] == kl["scratch"] == ""


def test_many_panels_fill_several_files():
    panels = [(str(i), lambda axis: axis.plot([1, 2], [1, 2])) for i in range(batch_figures.FULL + 1)]
    found = batch_figures.sheets("returns", panels, size=(1.5, 1.0))
    assert list(found) == ["returns_1.png", "returns_2.png"]
    assert all(png.startswith(b"\x89PNG") for png in found.values())
    assert batch_figures.sheets("none", []) == {}


# --- the page -----------------------------------------------------------------------------------


def test_the_page_holds_what_lies_beside_it(made_up, tmp_path):
    entries = made_up()
    folder = tmp_path / "reports" / "a"
    told = {
        "fibers": {entries[0].name: history()},
        "sweeps": {"t1, epoch 340": [(0.5, 0.4), (0.0, 1.0)]},
        "about": {"command": "./kcore.sh"},
    }
    path = batch.write(folder, "A batch", entries, **told)
    assert path == folder / "index.html"
    page = Page(path)
    pngs = {name: (folder / name).read_bytes() for name in ("returns.png", "sizes.png", "fibers.png")}
    pngs |= {name: (folder / name).read_bytes() for name in ("thresholds.png", "costs.png")}
    inline = [base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in page.pictures]
    assert sorted(inline) == sorted(pngs.values())
    assert "script" not in page.tags and not re.search(r"https?:|@import|url\(", page.text)
    assert len(page.links) == 2 * len(entries)
    assert all((folder / unquote(link)).exists() for link in page.links)
    assert {"A batch", "./kcore.sh", *(e.name for e in entries)} <= set(page.words)
    assert not list(folder.glob(".*"))

    finals = rows(folder / "finals.csv")
    assert len(finals) == 2 * 4 and {row["seeds"] for row in finals} == {"3"}
    group = grouped(entries)[0]
    assert float(finals[1]["iqm"]) == group.final["collapsed"].value
    assert [row["name"] for row in rows(folder / "runs.csv")] == [e.name for e in entries]
    assert rows(folder / "improvements.csv")[1]["over"] == "ablated"
    assert [row["kept"] for row in rows(folder / "thresholds.csv")] == ["1.0", "0.4"]
    assert {row["kind"] for row in rows(folder / "curves.csv")} == set(ENDS)
    assert {row["space"] for row in rows(folder / "fibers.csv")} == {"encoder", "conv", "lstm", "critic"}


def test_failed_runs_come_first_and_are_marked(made_up, tmp_path):
    entries = made_up(seeds=2)
    lost = replace(entries[-1], status="failed", message="it broke", path=tmp_path / "no", log=None)
    entries[5] = replace(entries[5], status="unfinished")
    table = batch_tables.run_table([*map(groups.Result.of, [*entries[:-1], lost])], tmp_path)
    assert [row["status"].text for row in table][:3] == ["failed", "unfinished", "done"]
    assert table[0]["run"].href is None and table[0]["status"].look == "failed"
    page = Page(batch.write(tmp_path / "report", "t", [*entries[:-1], lost]))
    assert '<span class="failed">failed</span>' in page.text and "it broke" in page.words
    assert "1 of 14 runs failed." in page.text and "1 of 14 runs is unfinished." in page.text


def bare(kind, seed, status, tmp_path, **more):
    known = {"name": f"{kind}{seed}", "exp": "t1", "epoch": 3, "kind": kind, "seed": seed, "status": status}
    return Entry(
        **known, setting="" if kind == "original" else "0.3", path=tmp_path / f"{kind}{seed}", **more
    )


@pytest.mark.parametrize("status", ["failed", "done"])
def test_a_batch_of_which_nothing_is_left_is_still_told(tmp_path, status):
    entries = [bare(kind, seed, status, tmp_path) for kind in ENDS for seed in (1, 2)]
    page = Page(batch.write(tmp_path / "report", "t", entries))
    assert "there is nothing to compare yet" in page.text and len(page.pictures) == 1
    assert not (tmp_path / "report" / "improvements.csv").exists()


def test_one_seed_has_no_band_and_no_judgement(made_up, tmp_path):
    entries = made_up(seeds=1)
    page = Page(batch.write(tmp_path / "report", "t", entries))
    assert "(one seed)" in page.text and "too few seeds in 2" in page.text
    assert not re.search(r"Higher than|Lower than|\bnan\b", " ".join(page.words))


def test_a_batch_without_an_original_compares_the_rest(made_up, tmp_path):
    entries = [replace(e, params_original=None) for e in made_up() if e.kind != "original"]
    page = Page(batch.write(tmp_path / "report", "t", entries))
    assert "no original to compare with" in page.text and "Collapsed against scratch" in page.text
    assert "against original" not in page.text and not (tmp_path / "report" / "sizes.png").exists()


def test_originals_alone_are_told(made_up, tmp_path):
    page = Page(batch.write(tmp_path / "report", "t", [e for e in made_up() if e.kind == "original"]))
    assert "no collapsed run is planned" in page.text


def test_names_are_text_in_the_page_whatever_they_hold(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=y>\"'&"
    (tmp_path / "javascript:alert(1)").mkdir()
    one = bare("collapsed", 1, "failed", tmp_path, message=evil)
    one = replace(one, name=evil, exp=evil, setting=evil, path=tmp_path / "javascript:alert(1)")
    history_ = {evil: history(spaces=(evil,))}
    page = Page(
        batch.write(tmp_path, evil, [one], fibers=history_, sweeps={evil: [(0, 1)]}, about={evil: evil})
    )
    assert "script" not in page.tags and page.links == ["javascript%3Aalert%281%29"]
    assert all(src.startswith("data:image/png") for src in page.pictures)


def test_hundreds_of_runs_are_told(made_up, tmp_path):
    settings = [(f"0.{i}", 0.9 - 0.04 * i) for i in range(20)]
    entries = made_up(settings, seeds=4, epochs=12)
    assert len(entries) == 244
    page = Page(batch.write(tmp_path / "report", "t", entries))
    assert len(page.links) == 2 * 244 and page.words.count("done") == 244
    assert {"returns_1.png", "returns_2.png"} <= {path.name for path in (tmp_path / "report").iterdir()}


def test_nothing_of_an_earlier_report_stays(made_up, tmp_path):
    entries, folder = made_up(seeds=2), tmp_path / "report"
    batch.write(folder, "t1", entries, sweeps={"t1, epoch 340": [(0.1, 0.9), (1.0, 0.3)]})
    assert (folder / "thresholds.csv").is_file()
    batch.write(folder, "t1", entries)
    assert not list(folder.glob("thresholds*")) and (folder / "returns.png").is_file()
