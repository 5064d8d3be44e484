"The freshness check accepts last digits and finds what changed."
import json
import subprocess
import sys

import nbformat
import nbformat.v4 as nbf
import pytest
from conftest import image

from tools import fresh
from tools.common import environment, root


@pytest.mark.parametrize("old, new", [
    ("loss 0.12345", "loss 0.12347"), ("error 1.2e-15", "error 0.0e+00"), ("error 3.1e-07", "error 5.2e-07"), ("a  0.50", "a 0.50"),
    ("tensor([1.0000, -0.0000])", "tensor([1.0000,  0.0000])"), ("x=12 of 30", "x=12 of 30")])
def test_same(old, new): assert fresh.same_text(old, new)


@pytest.mark.parametrize("old, new", [
    ("loss 0.12345", "loss 0.12445"), ("loss 0.05", "loss 0.07"),
    ("error 1e-07", "error 1e-03"), ("x=12", "x=13"), ("passed", "failed"), ("1 2", "1 2 3"), ("v1.2", "v1.3"),
    ("e 2.0e-07", "e -2.0e-07")])
def test_different(old, new): assert not fresh.same_text(old, new)


def printed(text): return nbf.new_output("stream", name="stdout", text=text)


def test_missing_figure_is_found():
    assert fresh.compare([image()], [image()]) is None
    assert "stores 0 figure(s), draws 1" in fresh.compare([], [image()])


def notebook(path, *cells):
    nbformat.write(nbf.new_notebook(cells=[nbf.new_code_cell(source, outputs=list(outputs)) for source, outputs in cells]), path)
    return path


@pytest.fixture
def faults(tmp_path):
    "Run cells in a small project and return the faults."
    (tmp_path/"settings.ini").write_text((root/"settings.ini").read_text())

    def run(*cells, flags=()):
        path = notebook(tmp_path/"a.ipynb", *cells)
        done = subprocess.run([sys.executable, "-m", "tools.fresh", str(path), *flags], cwd=tmp_path, env=environment(root), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])
    return run


def test_a_notebook(faults):
    good = ("x = 0.5\nprint(f'x is {x}')", [printed("x is 0.5\n")])
    assert faults(good, ("#| slow\nprint(1 / 0)", []), ("#| volatile\nprint(2)", [printed("1\n")]), ("#| eval: false\n1 / 0", [])) == []
    stale, stop = faults(good, ("print(x + 1)", [printed("1.8\n")]), ("1 / 0", []), ("print(3)", []))
    assert "stored output is stale" in stale and "1.8" in stale and "ZeroDivisionError" in stop
    assert "ZeroDivisionError" in faults(("#| slow\n1 / 0", []), flags=["--slow"])[0]


def test_figures_count(faults):
    source = "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()"
    assert faults((source, [image()])) == []
    assert "stores 0 figure(s), draws 1" in faults((source, []))[0]


def test_public_file_that_is_not_at_hand(tmp_path, monkeypatch):
    "Outputs that show a public file are compared where the file is, and only there."
    from tools.fresh import comparable
    monkeypatch.setenv("EQBOOK_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("eqbook.datasets.core.cache_folder", lambda: tmp_path / "cache")
    assert comparable({}) and not comparable({"volatile": []})
    assert not comparable({"public": ["some.xyz"]})
    (tmp_path / "some.xyz").touch()
    assert comparable({"public": ["some.xyz"]})
