"Every exercise of the book: a checker that refuses the stub, wrong answers that it recognises, hints, and a prompt that states shapes."
import ast
import importlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable

import nbformat
import numpy as np
import pytest
import torch
from e3nn import o3
from torch import nn

from eqbook.exercises import CHECKERS, catalogue, entry, examine
from eqbook.learner import code_of, generate
from tools.common import environment, root, shows_machine
from tools.export import addresses

CHAPTERS = dict.fromkeys(about["notebook"] for about in catalogue().values())


def cells(pattern, kind):
    "Sources of the cells of one kind in the notebooks that match."
    return [c.source for path in sorted((root/"nbs").glob(pattern)) for c in nbformat.read(path, 4).cells if c.cell_type == kind]


def wrong_answers():
    "How many wrong answers the checks' notebooks recognise for each exercise: one in `caught`, one for each entry in `refused`."
    counts = dict.fromkeys(catalogue(), 0)
    for call in (n for source in cells("lab/checks_*.ipynb", "code") for n in ast.walk(ast.parse(code_of(source))) if isinstance(n, ast.Call)):
        if getattr(call.func, "id", "") not in ("caught", "refused") or not isinstance(call.args[0], ast.Constant): continue
        counts[call.args[0].value] += len(call.args[1].keys) if call.func.id == "refused" else 1
    return counts


@pytest.mark.parametrize("exercise", catalogue())
def test_a_stub_is_told_that_it_is_one(exercise):
    about = entry(exercise)
    module = importlib.import_module(f"eqbook.{about['module']}")
    space = {**vars(module), "torch": torch, "nn": nn, "np": np, "o3": o3, "math": math, "Callable": Callable, "Tensor": torch.Tensor}
    exec(about["stub"], space)
    verdict = examine(exercise, *(space[name] for name in about["names"]))
    assert not verdict and "There is no answer yet" in verdict.message, verdict


@pytest.mark.parametrize("exercise", catalogue())
def test_nothing_and_nonsense_are_refused_in_words(exercise):
    n = len(entry(exercise)["names"])
    for nonsense in (None, 3, lambda: 1):
        verdict = examine(exercise, *[nonsense] * n)
        assert not verdict and "KeyError" not in verdict.message and "eqbook/" not in verdict.message, verdict


def test_every_exercise_has_wrong_answers_that_are_caught():
    assert {exercise: n for exercise, n in wrong_answers().items() if n < 2} == {}


def test_no_checker_stands_alone():
    for module in {about["module"] for about in catalogue().values()}: importlib.import_module(f"eqbook.checks.{module}")
    assert set(CHECKERS) == set(catalogue())


@pytest.mark.parametrize("exercise", catalogue())
def test_a_prompt_names_what_it_asks_for_and_has_hints(exercise):
    about = entry(exercise)
    assert about["hints"] and all(hint.strip() for hint in about["hints"])
    assert any(f"`{name}" in about["prompt"] for name in about["names"]), about["prompt"]
    assert about["solution"] != about["stub"] and f'raise NotImplementedError("{exercise}: your turn")' in about["stub"]


def test_exercises_are_numbered_in_reading_order():
    order = re.findall(r"^\s+- (\d\w+)\.ipynb", (root/"_quarto.yml").read_text(), re.M)
    seen = [e for stem in order for e in re.findall(r"^#\| exercise (ex_\w+)", "\n".join(cells(f"{stem}.ipynb", "code")), re.M)]
    assert seen == list(catalogue()) and len(seen) > 25


def test_all_notebooks_are_made_in_ten_seconds(tmp_path):
    def busy(): return sum(os.times()[:4])  # of this process and of pandoc's, however loaded the machine is
    start = busy()
    made = generate(root/"nbs", root/"results", tmp_path/"made", addresses(root))
    assert busy() - start < 10 and made == catalogue()
    assert {p.stem for p in (tmp_path/"made").glob("*.ipynb")} == set(CHAPTERS)


def test_a_terminal_shows_text_and_no_traceback(tmp_path):
    exercise = next(e for e, about in catalogue().items() if about["names"] == ["scatter_sum"])
    answer = "def scatter_sum(x, index, n_rows): return x[7000]"
    code = f"from eqbook.exercises import check\n{answer}\ncheck({exercise!r}, scatter_sum); print('after')"
    done = subprocess.run([sys.executable, "-c", code], env=environment(root), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done
    assert done.stdout.startswith(f"✗ {exercise} (scatter_sum):") and done.stdout.endswith("after\n"), done
    assert "IndexError" in done.stdout and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stem", CHAPTERS)
def test_a_learners_notebook_is_plain_jupyter(stem):
    nb = json.loads((root/"eqbook"/"exercises_nb"/f"{stem}.ipynb").read_text())
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    assert nb["metadata"]["kernelspec"]["name"] == "python3" and all(c["execution_count"] is None for c in code)
    texts = [o for c in code for o in c["outputs"] if "image/png" not in o.get("data", {})]
    assert not any(shows_machine(json.dumps(output)) for output in texts)
