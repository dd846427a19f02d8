"""The board in a real browser: clicks, filters, keys, a run that grows while it is watched."""

import shutil
import threading
import time

import made
import pytest

from pufferlib_kcore.jobs.board import Board, BoardRequest, export

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with chromedriver on PATH")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
FLAGS += "--disable-component-update --disable-sync"
PATIENCE = 20  # seconds


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made_here = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    made_here.set_window_size(1300, 900)
    yield made_here
    made_here.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("board") / "experiments"
    one = made.run(root, "cart1", findings=[("policy_collapse", 20)], learning_rate=0.001)
    made.run(root, "cart2", seed=1, learning_rate=0.001)
    made.run(root, "pong1", env="pong", gain=2.0, learning_rate=0.002)
    made.run(root, "<img src=x onerror=document.title=1>", env="<b>bold</b>")
    made.fibers(one)
    made.lines(one)
    below = one / "collapsed_model_thr_03_000010"
    below.mkdir()
    made.run(below, "cartpole-0a1b2c3d", collapse={"tag": "0.3", "params_before": 900, "params_after": 300})
    made.lab(root.parent / "results")
    return root.parent


@pytest.fixture(scope="module")
def served(folder):
    server = Board(BoardRequest(roots=(folder / "experiments", folder / "results"), port=0))
    server.index.refresh()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.address
    server.shutdown()
    server.server_close()


def until(asked):
    """The first true answer.  Fails where none comes."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if found := asked():
                return found
        except Exception as error:  # an element that was drawn anew meanwhile
            last = error
            if time.monotonic() > end - 1:
                raise last from None
        time.sleep(0.05)
    raise AssertionError("it did not come")


def css(browser, selector):
    return browser.find_elements("css selector", selector)


def names(browser):
    return [one.text.split(" ")[0] for one in css(browser, "#runs tbody td.name a")]


def goto(browser, address):
    browser.get("about:blank")
    browser.get(address)
    until(lambda: css(browser, "main h2, #runs tbody tr"))


def texts(browser, selector):
    return [one.text for one in css(browser, selector)]


def quiet(browser):
    """Whether the browser complained of nothing: no error, nothing that its policy refused."""
    return [row for row in browser.get_log("browser") if row["level"] == "SEVERE"]


def test_filters_sorting_and_deep_links(browser, served):
    goto(browser, served)
    assert len(names(browser)) == 6 and quiet(browser) == []
    box = css(browser, "#q")[0]
    box.send_keys("cart")
    until(lambda: sorted(names(browser)) == ["cart1", "cart2", "cartpole-0a1b2c3d"])
    assert "q=cart" in browser.current_url and texts(browser, "#count") == ["3 of 6"]
    css(browser, "#found option[value=policy_collapse]")[0].click()
    until(lambda: names(browser) == ["cart1"])
    address = browser.current_url
    goto(browser, address)
    assert names(browser) == ["cart1"] and css(browser, "#q")[0].get_attribute("value") == "cart"
    goto(browser, f"{served}#/?env=pong")
    assert names(browser) == ["pong1"]
    goto(browser, served)
    header = css(browser, "#runs th[data-key=best_return]")[0]
    header.find_element("css selector", "button").click()
    until(lambda: css(browser, "#runs th[aria-sort=ascending]"))
    first = names(browser)[0]
    css(browser, "#runs th[data-key=best_return] button")[0].click()
    until(lambda: css(browser, "#runs th[aria-sort=descending]"))
    assert first in ("pong1", "shift") and names(browser)[-1] == first


def test_names_with_markup_are_text(browser, served):
    goto(browser, served)
    assert any(name.startswith("<img") for name in names(browser))
    assert not css(browser, "main img") and not css(browser, "main td b") and browser.title == "Board"


def test_a_runs_page_has_all_of_it(browser, served):
    goto(browser, served)
    next(a for a in css(browser, "#runs a") if a.text == "cart1").click()
    until(lambda: "Collapses" in texts(browser, "main h2"))
    heads = texts(browser, "main h2")
    for head in (
        "cart1",
        "Findings",
        "Collapses",
        "Fibers and sizes",
        "Lines in weight space",
        "Metrics",
        "Log",
    ):
        assert head in heads
    assert texts(browser, "svg .mark-text")[0] == "policy_collapse"
    tree = css(browser, "ul.tree")[0].text
    assert "cartpole-0a1b2c3d" in tree and "900 to 300 parameters" in tree
    assert "the last line of cart1" in css(browser, "#log")[0].text
    assert "barrier 10 [5, 15]" in css(browser, "main")[0].text
    table = css(browser, "figure details")[0]
    table.find_element("css selector", "summary").click()
    until(lambda: len(css(browser, "figure details table tr")) == 41)
    next(a for a in css(browser, "ul.tree a") if a.text == "cartpole-0a1b2c3d").click()
    until(lambda: texts(browser, "main h2")[0] == "cartpole-0a1b2c3d")
    browser.back()
    until(lambda: texts(browser, "main h2")[0] == "cart1")
    assert quiet(browser) == []


def test_a_lab_runs_page(browser, served):
    goto(browser, served)
    next(a for a in css(browser, "#runs a") if a.text == "shift").click()
    until(lambda: "Report" in texts(browser, "main h2"))
    assert "Hypothesis: held" in css(browser, "main")[0].text and len(css(browser, ".pictures img")) == 1


def test_runs_side_by_side_by_keyboard(browser, served):
    from selenium.webdriver.common.keys import Keys

    goto(browser, f"{served}#/?q=cart")
    until(lambda: len(names(browser)) == 3)
    for name in ("cart1", "cart2"):
        css(browser, f'input[aria-label="pick {name}"]')[0].send_keys(Keys.SPACE)
    until(lambda: css(browser, "#compare")[0].text == "compare 2")
    css(browser, "#compare")[0].send_keys(Keys.ENTER)
    until(lambda: texts(browser, "main h2")[:1] == ["2 side by side"])
    assert texts(browser, ".legend li") == ["cart1", "cart2"]
    assert texts(browser, "tr.differs th") == ["train.seed"]
    css(browser, "#seeds")[0].send_keys(Keys.SPACE)
    until(lambda: texts(browser, ".legend li") == ["cart1 and 1 more seeds"])
    assert len(css(browser, "svg polygon")) == 1
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_run_that_grows_while_it_is_watched(browser, served, folder):
    path = made.run(folder / "experiments", "growing", epochs=5)
    goto(browser, served)
    until(lambda: "growing" in names(browser))
    next(a for a in css(browser, "#runs a") if a.text == "growing").click()
    points = until(lambda: len(css(browser, "main > figure:first-of-type circle")))
    for epoch in range(6, 10):
        made.grow(path, epoch, 9.0 * epoch)
    until(lambda: len(css(browser, "main > figure:first-of-type circle")) == points + 4)
    goto(browser, served)
    row = next(r for r in css(browser, "#runs tbody tr") if "growing" in r.text)
    assert "9000" in row.text
    shutil.rmtree(path)
    until(lambda: "growing" not in names(browser))


@pytest.mark.parametrize("dark", [False, True])
def test_at_a_phones_width_and_in_the_dark(browser, served, dark):
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        goto(browser, served)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) < 200) == dark
        next(a for a in css(browser, "#runs a") if a.text == "cart1").click()
        until(lambda: css(browser, "svg path"))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_exported_page_works_from_a_file(browser, folder, tmp_path):
    out = tmp_path / "all.html"
    export(BoardRequest(roots=(folder / "experiments", folder / "results"), export=out))
    goto(browser, out.as_uri())
    assert "cart1" in names(browser)
    next(a for a in css(browser, "#runs a") if a.text == "cart1").click()
    until(lambda: "Fibers and sizes" in texts(browser, "main h2"))
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
    assert [name for name in loaded if not name.startswith("data:")] == [] and quiet(browser) == []


def test_a_thousand_runs_from_a_kept_index(browser, tmp_path):
    """All rows are there; how fast is benchmarks/board_speed.py's to say."""
    for k in range(1000):
        made.run(tmp_path / "runs", f"run{k:04}", seed=k, epochs=3)
    server = Board(BoardRequest(roots=(tmp_path / "runs",), port=0, cache=tmp_path / "cache.json"))
    server.index.refresh()
    server.server_close()
    again = Board(BoardRequest(roots=(tmp_path / "runs",), port=0, cache=tmp_path / "cache.json"))
    assert len(again.index.entries) == 1000
    threading.Thread(target=again.serve_forever, daemon=True).start()
    try:
        goto(browser, again.address)
        until(lambda: len(css(browser, "#runs tbody tr")) == 1000)
    finally:
        again.shutdown()
        again.server_close()
