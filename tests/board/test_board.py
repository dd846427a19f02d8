"""The board: its index, its addresses, and what they refuse."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import made
import pytest

from pufferlib_kcore.analysis.board import Index, details
from pufferlib_kcore.cli import main
from pufferlib_kcore.jobs.board import Board, BoardRequest, export
from pufferlib_kcore.store.lock import locked


@contextmanager
def serving(*roots, cache=None):
    """-> ask(address, host=.., method=..) -> (status, headers, body)"""
    server = Board(BoardRequest(roots=tuple(Path(r).absolute() for r in roots), port=0, cache=cache))
    server.index.refresh()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def ask(address, method="GET", **headers):
        there = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        there.putrequest(method, address, skip_host="Host" in named, skip_accept_encoding=True)
        for name, value in named.items():
            there.putheader(name, value)
        there.endheaders()
        got = there.getresponse()
        return got.status, dict(got.getheaders()), got.read()

    ask.server = server
    try:
        yield ask
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "experiments"
    one = made.run(root, "cart1", findings=[("policy_collapse", 20)])
    made.run(root, "cart2", seed=1)
    made.fibers(one)
    made.lines(one)
    below = one / "collapsed_model_thr_03_000010"
    below.mkdir()
    made.run(below, "cartpole-0a1b2c3d", collapse={"tag": "0.3", "params_before": 900, "params_after": 300})
    made.lab(tmp_path / "results")
    made.forked(tmp_path / "results")
    return tmp_path


def entries(ask):
    return {one["name"]: one for one in json.loads(ask("/api/runs")[2])}


def test_a_line_on_every_kind_of_run(folders):
    with serving(folders / "experiments", folders / "results") as ask:
        found = entries(ask)
    assert set(found) == {"cart1", "cart2", "cartpole-0a1b2c3d", "shift", "seed_3_20260101_000000"}
    one = found["cart1"]
    assert (
        one["steps"] == 40_000 and one["findings"] == ["policy_collapse"] and 185 < one["last_return"] < 200
    )
    child = found["cartpole-0a1b2c3d"]
    assert (
        child["parent"] == one["id"] and child["params"] == 300 and child["collapse"].startswith("collapsed_")
    )
    assert one["group"] == found["cart2"]["group"] != child["group"], "seeds alone differ"
    assert found["shift"]["answer"] == "held" and found["seed_3_20260101_000000"]["env"] == "Hopper-v5"


def test_all_that_is_known_of_a_run(folders):
    with serving(folders / "experiments", folders / "results") as ask:
        ids = {name: one["id"] for name, one in entries(ask).items()}
        told = json.loads(ask(f"/api/run/{ids['cart1']}")[2])
        lab = json.loads(ask(f"/api/run/{ids['shift']}")[2])
        fork = json.loads(ask(f"/api/run/{ids['seed_3_20260101_000000']}")[2])
        picture = ask(f"/picture/{ids['shift']}/0")
    assert told["metrics"]["agent_steps"][-1] == 40_000 and len(told["metrics"]["episode_return"]) == 40
    assert told["fibers"]["spaces"]["encoder"]["fibers"] == [60, 20]
    assert told["lines"][0]["name"] == "original to collapse" and told["lines"][0]["barrier"]["value"] == 10
    assert told["settings"]["train.seed"] == "0" and told["log"].endswith("the last line of cart1")
    assert lab["report"].startswith("# shift") and [c["name"] for c in lab["curves"]] == ["seed 0", "seed 1"]
    assert lab["pictures"] == ["visualizations/heatmap.png"] and picture[2].startswith(b"\x89PNG")
    assert fork["lines"][0]["name"] == "fork 0 at 50%" and not (
        told["trouble"] or lab["trouble"] or fork["trouble"]
    )


def test_long_curves_are_thinned_and_end_where_they_end(tmp_path):
    made.run(tmp_path, "long", epochs=2000)
    index = Index((tmp_path,))
    index.refresh()
    (one,) = index.found.values()
    steps = details(one)["metrics"]["agent_steps"]
    assert len(steps) <= 601 and steps[-1] == 2_000_000


def test_only_what_changed_is_read_again(tmp_path, monkeypatch):
    from pufferlib_kcore.analysis.board import index as module

    read, real = [], module.entry_of
    monkeypatch.setattr(module, "entry_of", lambda one: (read.append(one.path.name), real(one))[1])
    runs, cache = tmp_path / "runs", tmp_path / "cache" / "board.json"
    one = made.run(runs, "one")
    made.run(runs, "two")
    first = Index((runs,), cache).load()
    assert first.refresh() and sorted(read) == ["one", "two"]
    assert not first.refresh() and len(read) == 2
    again = Index((runs,), cache).load()
    assert {e["name"] for e in again.entries.values()} == {"one", "two"}, "there before anything is read"
    made.grow(one, 41, 300.0)
    again.refresh()
    assert read[2:] == ["one"]
    cache.write_text("{ cut short")
    assert Index((runs,), cache).load().refresh() and len(read) == 5
    assert not list(runs.rglob("*.tmp")) and not (runs / ".lock").exists(), "nothing is written there"


def test_who_holds_a_runs_lock_is_running(folders):
    path = folders / "experiments" / "cart1"
    index = Index((folders / "experiments",))
    with locked(path):
        index.refresh()
        running = {e["name"]: e["running"] for e in index.entries.values()}
    assert running == {"cart1": True, "cart2": False, "cartpole-0a1b2c3d": False}
    assert index.refresh() and not any(e["running"] for e in index.entries.values())


def test_damaged_files_cost_their_part_alone(folders):
    one = folders / "experiments" / "cart1"
    (one / "connectivity.json").write_text('{"lines": [')
    (folders / "results" / "lab" / "shift" / "result.json").write_text("{}")
    (folders / "experiments" / "cart2" / "config.json").write_text("{ no")
    with serving(folders / "experiments", folders / "results") as ask:
        found = entries(ask)
        told = json.loads(ask(f"/api/run/{found['cart1']['id']}")[2])
    assert (
        "no experiment's result" in found["shift"]["trouble"]
        and "no JSON object" in found["cart2"]["trouble"]
    )
    assert any("cut short" in t for t in told["trouble"]) and told["metrics"]["agent_steps"]


HOSTILE = [
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/api/run/../../config.json",
    "/api/run/..%2f..%2fconfig.json", "/picture/6e57bae27fe7/../../config.json", "/board.js/../board.css",
    "//etc/passwd", "/api/run/aaaaaaaaaaaaa", "/picture/000000000000/0", "/api/run/6E57BAE27FE7",
    "/static/board.js", "/picture/aaaaaaaaaaaa/-1",
]  # fmt: skip


@pytest.mark.parametrize("address", HOSTILE)
def test_addresses_name_nothing_but_what_is_listed(folders, address):
    with serving(folders / "experiments") as ask:
        status, _, body = ask(address)
    assert status == 404 and b"root:" not in body


def test_links_out_of_the_folders_are_no_pictures(folders):
    secret = folders / "secret.png"
    secret.write_bytes(b"\x89PNG secret")
    (folders / "experiments" / "cart1" / "out.png").symlink_to(secret)
    with serving(folders / "experiments") as ask:
        one = entries(ask)["cart1"]["id"]
        assert json.loads(ask(f"/api/run/{one}")[2])["pictures"] == []
        assert ask(f"/picture/{one}/0")[0] == 404


@pytest.mark.parametrize(("host", "status"), [
    ("127.0.0.1", 200), ("localhost:8765", 200), ("evil.example", 403), ("127.0.0.1.evil.example", 403),
    ("localhost@evil.example", 403), ("", 403), ("0.0.0.0", 403), ("127.0.0.1:80/x", 403),
])  # fmt: skip
def test_other_hosts_get_nothing(folders, host, status):
    with serving(folders / "experiments") as ask:
        for address in ("/", "/api/runs", "/board.js"):
            assert ask(address, Host=host)[0] == status


def test_it_only_shows_and_says_so(folders):
    with serving(folders / "experiments") as ask:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert ask("/api/runs", method)[0] == 405
        status, headers, body = ask("/", "HEAD")
        assert status == 200 and body == b"" and int(headers["Content-Length"]) > 500
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and "Access-Control-Allow-Origin" not in headers
        assert ask.server.server_address[0] == "127.0.0.1"
        tag = ask("/api/runs")[1]["ETag"]
        assert ask("/api/runs", If_None_Match=tag)[0] == 304


def test_one_file_holds_it_all_and_loads_nothing(folders, tmp_path):
    odd = made.run(folders / "experiments", "odd <script>alert(1)")
    (odd / "log.out").write_text("</script><script>alert(1)</script>")
    out = tmp_path / "all.html"
    export(BoardRequest(roots=(folders / "experiments", folders / "results"), export=out))
    text = out.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert len(data["runs"]) == 6 and len(data["details"]) == 6 and len(data["pictures"]) == 1
    assert "<script>alert(1)" not in text and not re.search(r'(src|href)="(?!data:|#)', text)


def test_mistakes_in_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--mode", "board", "--port", str(port)]) == 2
        assert f"port {port} cannot be had" in capsys.readouterr().err
    assert main(["--mode=board", "--root", "nowhere"]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["--mode", "board", "--port", "99999"]) == 2
    assert "--port = 99999: expected a number from 0 to 65535" in capsys.readouterr().err
    assert main(["--mode", "board", "--export", str(tmp_path / "no" / "x.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_command_says_where_and_ends_by_a_signal(folders):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(root / "demo.py"), "--mode", "board", "--port", "0"]
    env = {**os.environ, "XDG_CACHE_HOME": str(folders / "cache")}
    with subprocess.Popen(command, cwd=folders, stdout=subprocess.PIPE, text=True, env=env) as board:
        said = board.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", said)[1])
        there = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        there.request("GET", "/")
        assert there.getresponse().status == 200
        board.terminate()
        assert board.wait(10) != 0
    assert not list((folders / "experiments").rglob("*.tmp"))
