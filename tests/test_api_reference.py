"""docs/api_reference.md is what its tool writes now, and says what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pufferlib_kcore
from pufferlib_kcore.failure_lab import failure_detection, introspection
from tools import api_reference

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def page():
    return api_reference.page()


def test_the_page_is_what_the_source_says(page):
    assert api_reference.PAGE == ROOT / "docs" / "api_reference.md"
    assert api_reference.PAGE.read_text() == page, "run python tools/api_reference.py"


def test_another_process_elsewhere_writes_the_same(page):
    tool = [sys.executable, ROOT / "tools" / "api_reference.py"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([*tool, "--check"], cwd="/", env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    done = subprocess.run([*tool, "--now"], cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("--now is not understood")


def test_a_page_that_is_not_what_the_source_says_is_told(page, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api_reference, "ROOT", tmp_path)
    monkeypatch.setattr(api_reference, "PAGE", tmp_path / "api_reference.md")
    assert (
        api_reference.main(["--check"]) == 1
        and "run python tools/api_reference.py" in capsys.readouterr().out
    )
    assert api_reference.main([]) == 0 and api_reference.main(["--check"]) == 0
    api_reference.PAGE.write_text(page.replace("class StateHeatmap:", "class Heatmap:"))
    assert api_reference.main(["--check"]) == 1


@pytest.mark.parametrize("package", [pufferlib_kcore, failure_detection, introspection])
def test_every_public_name_is_there_in_order_and_documented(page, package):
    section = page.partition(f"\n## {package.__name__}\n")[2].partition("\n## ")[0]
    assert re.findall("^### (.*)", section, re.M) == sorted(package.__all__)
    for part in section.split("\n### ")[1:]:
        name, _, stub = part.partition("\n")
        first = re.search('"""(.*)', stub)
        assert first and stub.index(first[0]) < (stub.find("\n    def ") % len(stub)), f"{name} says nothing"


def test_what_several_packages_offer_is_told_once_in_the_innermost(page):
    told = re.findall("^### (.*)", page, re.M)
    assert told.count("EntropyTracker") == told.count("PolicyCollapseDetector") == 1
    outer = page.partition("\n## pufferlib_kcore.failure_lab\n")[2].partition("\n## ")[0]
    assert "`EntropyTracker` (pufferlib_kcore.failure_lab.introspection)" in outer


def test_nothing_of_this_machine_is_on_it(page):
    assert not re.search("0x[0-9a-f]{6}", page)
    assert str(ROOT) not in page and not re.search(r"\bobject at\b", page)


SOURCE = '''
class A(B):
    """Says."""
    x: int = 3  # metres
    _y = 4

    def __init__(self, a):
        self.a = a

    @property
    def p(self) -> int:
        """Of it.

            x = 1
        """
        return 1

    def _hidden(self): ...

    def bare(self, *, k=object()):  # noqa: B008
        return k
'''
STUB = '''
class A(B):
    """Says."""

    x: int = 3  # metres

    def __init__(self, a):

    @property
    def p(self) -> int:
        """Of it.

            x = 1
        """

    def bare(self, *, k=object()):
'''


def test_a_stub_by_hand():
    import ast

    assert api_reference.stub(ast.parse(SOURCE).body[0], SOURCE.splitlines()) == STUB.strip()
