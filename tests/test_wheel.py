"The package builds from a copy of the tree, its wheel is complete, and a missing data file is noticed."
import shutil
import zipfile

import pytest

from tools import check_wheel
from tools.common import snapshot


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = snapshot(tmp_path_factory.mktemp("tree"))
    (tree/"eqbook"/"datasets").mkdir(exist_ok=True)
    (tree/"eqbook"/"exercises_nb"/"lab").mkdir(parents=True, exist_ok=True)
    for name in ("datasets/__init__.py", "datasets/planted.npz", "exercises_nb/planted.ipynb", "exercises_nb/lab/planted.ipynb"):
        (tree/"eqbook"/name).touch()
    return tree


def test_the_wheel_holds_data_and_nothing_of_the_workshop(tree, tmp_path):
    wheel, words = check_wheel.build(tree, tmp_path)
    assert wheel, words
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"eqbook/{n}" for n in ("datasets/planted.npz", "exercises_nb/planted.ipynb", "exercises_nb/lab/planted.ipynb")} <= names
    assert not [n for n in names if n.startswith(("tools", "tests", "nbs"))]
    assert check_wheel.missing_data(tree, wheel) == []
    stray = tree/"eqbook"/"stray.bin"
    stray.touch()
    assert "eqbook/stray.bin is not in the wheel" in check_wheel.missing_data(tree, wheel)[0]
    shutil.rmtree(tree/"build", ignore_errors=True)
