"""Anybody's metrics as columns: other names, holes, NaN, one line, other files."""

import json
import math

import numpy as np
import pytest

from pufferlib_kcore.diagnostics.records import ALIASES, Records, read
from pufferlib_kcore.errors import UserError


def test_columns_with_holes():
    found = Records.of([{"epoch": 1, "entropy": 0.5}, {"epoch": 2}, {"epoch": 3, "entropy": "0.25"}])
    assert len(found) == 3 and "entropy" in found and "value_loss" not in found
    np.testing.assert_array_equal(found["entropy"], [0.5, math.nan, 0.25])
    assert np.isnan(found["value_loss"]).all() and not found.odd


@pytest.mark.parametrize("name", ALIASES)
def test_every_name_of_others_becomes_ours(name):
    for other in ALIASES[name]:
        sign = -1 if other.startswith("-") else 1
        beside = "clipfrac" if name == "entropy" else "entropy"
        found = Records.of([{other.lstrip("-"): 2.0, beside: 1.0}])
        assert found[name][0] == sign * 2


def test_our_own_name_comes_before_another():
    assert Records.of([{"entropy": 1.0, "losses/entropy": 2.0}])["entropy"][0] == 1


def test_what_is_said_to_be_no_number_is_told_from_a_hole():
    rows = [
        {"value_loss": 1.0},
        {"value_loss": None},
        {},
        {"value_loss": float("nan")},
        {"value_loss": "inf"},
    ]
    assert Records.of(rows).odd == {"value_loss": 3}
    assert not Records.of(rows[:3]).odd


def test_epochs_that_do_not_rise_are_counted_anew():
    assert Records.of([{"epoch": 5, "entropy": 1}, {"epoch": 5, "entropy": 1}])["epoch"].tolist() == [1, 2]
    assert Records.of([{"entropy": 1}, {"entropy": 1}])["epoch"].tolist() == [1, 2]
    assert Records.of([{"epoch": 5, "entropy": 1}, {"epoch": 9, "entropy": 1}])["epoch"].tolist() == [5, 9]


def test_records_out_of_order_are_put_in_order():
    rows = [{"epoch": i, "entropy": float(i), "value_loss": math.inf if i == 4 else 0.0} for i in range(9)]
    there, mixed = Records.of(rows), Records.of([rows[i] for i in (3, 0, 8, 1, 7, 2, 6, 5, 4)])
    for name in ("epoch", "entropy", "value_loss"):
        np.testing.assert_array_equal(mixed[name], there[name])
    assert mixed.odd == there.odd == {"value_loss": 4}


def test_an_integer_beyond_float64_is_infinite():
    found = Records.of([{"value_loss": 10**400, "entropy": 1}, {"value_loss": -(10**400)}])
    assert found["value_loss"].tolist() == [math.inf, -math.inf] and found.odd == {"value_loss": 0}


def test_a_table_from_a_spreadsheet(tmp_path):
    table = tmp_path / "progress.csv"
    table.write_bytes(b"\xef\xbb\xbfepisode_return,entropy\r\n1,2\r\n3,4\r\n")
    assert read(table)["episode_return"].tolist() == [1, 3]


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = tmp_path / "progress.csv"
    table.write_text("entropy,value_loss,entropy\n1,2,3\n")
    with pytest.raises(UserError, match="two columns 'entropy'"):
        read(table)


def test_json_lines_and_csv_say_the_same(tmp_path):
    rows = [{"time/total_timesteps": 10 * i, "rollout/ep_rew_mean": i / 2} for i in range(4)]
    lines, table = tmp_path / "progress.jsonl", tmp_path / "progress.csv"
    lines.write_text("\n".join(map(json.dumps, rows)) + '\n{"time/tot')  # whose writer was killed
    table.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]) + "\n")
    one, other = read(lines), read(table)
    for name in ("agent_steps", "episode_return", "epoch"):
        np.testing.assert_array_equal(one[name], other[name])
    assert one["episode_return"].tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("m.jsonl", "", "empty"),
        ("m.jsonl", "1\n2\n", "line 1, is no JSON object"),
        ("m.jsonl", '{"entropy": 1}\nhello\n{"entropy": 1}\n', "line 2, is no JSON object"),
        ("m.jsonl", '{"banana": 1}\n', "none of these metrics is known: banana"),
        ("m.csv", "", "empty"),
        ("m.csv", "entropy,epoch\n", "empty"),
    ],
)
def test_a_file_that_is_none_is_a_sentence(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read(path)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_true_metric_is_named_or_the_nearest_is(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"entropy": 1, "score": 3}\n')
    assert read(path, "score")["true_return"][0] == 3
    with pytest.raises(UserError, match="did you mean score"):
        read(path, "scores")
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "gone.jsonl")
