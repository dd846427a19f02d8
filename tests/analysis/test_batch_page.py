"""The batch's page in a real browser, headless Chromium where there is one."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import matplotlib.image
import pytest
from made_up import entry, history

from pufferlib_kcore.analysis import batch

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH"
)

# The page has no script of its own; this one tells what the browser made of it.
PROBE = """<script>
addEventListener("load", () => {
  const told = {
    images: [...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.complete]),
    tables: [...document.querySelectorAll("table")].map(t => t.rows.length),
    failed: getComputedStyle(document.querySelector(".failed")).color,
    width: document.documentElement.scrollWidth,
    window: innerWidth,
    scrolls: [...document.querySelectorAll(".scroll")].filter(b => b.scrollWidth > b.clientWidth).length,
    loaded: performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:")),
  };
  document.body.dataset.told = JSON.stringify(told);
});
</script>"""


def browse(page: Path, *arguments: str, width: int = 1300) -> str:
    """What headless Chromium prints on a page."""
    profile = page.parent / "profile"
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    place = [f"--user-data-dir={profile}", f"--window-size={width},4000", "--virtual-time-budget=5000"]
    command = [BROWSER, *quiet, *place, *arguments, page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture
def page(made_up, tmp_path):
    entries = made_up()
    entries[-1] = replace(entries[-1], status="failed", message="the disk is full: " + "a long story " * 20)
    lost = entry(
        tmp_path / "train_dir", "t1", 340, "collapsed", "params0.01", 1, status="failed", params=None
    )
    fibers = {entries[0].name: history(), entries[3].name: history(range(340, 400, 10))}
    sweeps = {"t1, epoch 340": [(i / 10, 1 - i / 25) for i in range(21)]}
    told = {"fibers": fibers, "sweeps": sweeps, "about": {"command": "./kcore.sh " + "--option value " * 40}}
    return batch.write(tmp_path / "report", "Batch of t1", [*entries, lost], **told)


def probed(page: Path, width: int) -> dict:
    """What the probe tells of a copy of the page at this width of the window [CSS pixels].

    The copy lies in a frame of that width, since Chromium's own windows have a least one.
    """
    copy = page.with_name("probed.html")
    copy.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    frame = page.with_name("frame.html")
    told = "frame.contentDocument.body.dataset.told"
    frame.write_text(
        f'<body><iframe id="frame" src="{copy.name}" width="{width}" height="4000" style="border:0"></iframe>'
        f'<script>addEventListener("load", () => document.body.dataset.told = {told})</script></body>'
    )
    dom = browse(frame, "--dump-dom", "--allow-file-access-from-files", width=max(width, 600))
    found = re.search(r'<body data-told="([^"]*)"', dom)
    assert found, dom[-2000:]
    return json.loads(unescape(found[1]))


@pytest.mark.parametrize("width", [1300, 390])
def test_a_browser_shows_every_table_and_picture(page, width):
    told = probed(page, width)
    assert told["window"] == width
    assert len(told["images"]) == len(list(page.parent.glob("*.png"))) == 5
    assert all(wide > 300 and high > 100 and done for wide, high, done in told["images"])
    finals, against, costs, runs, about = told["tables"]
    assert (finals, against, runs, about) == (1 + 3, 1 + 2, 1 + 22, 1 + 1) and costs > 7
    assert told["failed"] == "rgb(164, 22, 26)"
    assert told["width"] <= width  # what is wider scrolls in its own box
    assert told["scrolls"] > 0
    assert told["loaded"] == []


@pytest.mark.parametrize("width", [1300, 600])
def test_a_browser_draws_it(page, width):
    shot = page.with_name("shot.png")
    browse(page, f"--screenshot={shot}", width=width)
    drawn = matplotlib.image.imread(shot)[..., :3]
    assert drawn.shape[:2] == (4000, width)
    tenths = [part.std() for part in drawn[:3000].reshape(10, 300, width, 3)]
    assert min(tenths) > 0.01  # no blank stretch
