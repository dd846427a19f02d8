"""How soon the board is painted: 1,000 runs, from an index that is kept, in headless Chromium.

python benchmarks/board_speed.py          # half a minute; needs chromium and chromedriver
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from selenium import webdriver

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests" / "board")]

import made  # noqa: E402

from pufferlib_kcore.jobs.board import Board, BoardRequest  # noqa: E402

OUT = Path(__file__).resolve().parent / "board_speed.json"
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
PAINT = """const paint = performance.getEntriesByName("first-contentful-paint")[0];
return paint ? paint.startTime : null"""
ROWS = """const rows = document.querySelectorAll("#runs tbody tr").length;
return rows === arguments[0] ? performance.now() : null"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS.split():
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "runs", Path(folder) / "board.json"
        for k in range(args.runs):
            made.run(root, f"run{k:04}", seed=k, epochs=100)
        began = time.perf_counter()
        first = Board(BoardRequest(roots=(root,), port=0, cache=cache))
        first.index.refresh()
        read = time.perf_counter() - began
        first.server_close()
        began = time.perf_counter()
        server = Board(BoardRequest(roots=(root,), port=0, cache=cache))
        started = time.perf_counter() - began
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
        )
        paints, rows = [], []
        for _ in range(args.rounds):
            browser.get("about:blank")
            browser.get(server.address)
            while (seen := browser.execute_script(ROWS, args.runs)) is None:
                time.sleep(0.01)
            rows.append(seen)
            while (paint := browser.execute_script(PAINT, args.runs)) is None:
                time.sleep(0.01)
            paints.append(paint)
        browser.quit()
        server.shutdown()
    found = {
        "runs": args.runs,
        "first contentful paint, ms": statistics.median(paints),
        "all rows there, ms": statistics.median(rows),
        "server up from a kept index, ms": 1000 * started,
        "read anew, s": read,
    }
    print(json.dumps(found, indent=1))
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
