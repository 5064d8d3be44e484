"The command line as a user meets it: a process, its exit code, one line on stderr, and what it leaves behind."
import json
import os
import subprocess
import sys
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest

RUN = [sys.executable, "-c", "from eqbook.cli import main; main()"]


def eqbook(*args, cwd, **env):
    return subprocess.run([*RUN, *args], cwd=cwd, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **env})


def waters(n=24, seed=0):
    "Bent, stretched single waters whose charges depend on their bond lengths."
    rng = np.random.default_rng(seed)
    for _ in range(n):
        a, b, angle = rng.uniform(0.9, 1.05), rng.uniform(0.9, 1.05), np.deg2rad(rng.uniform(95, 115))
        atoms = ase.Atoms("OHH", [[0, 0, 0], [a, 0, 0], [b * np.cos(angle), b * np.sin(angle), 0]])
        q = np.array([0.3 + a - 0.96, 0.3 + b - 0.96])
        atoms.arrays["my_charges"] = np.array([-q.sum(), *q])
        yield atoms


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "own.xyz"
    ase.io.write(path, list(waters()), format="extxyz")
    return path


def test_demo_on_own_file(own_file, tmp_path):
    before = own_file.read_bytes()
    args = ("demo", "--data", str(own_file), "--key", "charges=my_charges", "--epochs", "3", "--quiet")
    first, second = (eqbook(*args, cwd=tmp_path) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "charge MAE" in first.stdout and "rotation" in first.stdout and first.stderr == ""
    for folder in ("eqbook-demo", "eqbook-demo-2"):  # the second run overwrites nothing
        report = json.loads((tmp_path / folder / "report.json").read_text())
        assert report["frames"] == {"train": 18, "valid": 1, "test": 3} and report["neutral"]
        assert {p.name for p in (tmp_path / folder).iterdir()} == {"report.json", "weights.safetensors", "parity.png", "learning_curve.png"}
    assert own_file.read_bytes() == before


def test_same_seed_same_result(own_file, tmp_path):
    results = []
    for out in "ab":
        eqbook("demo", "--data", str(own_file), "--key", "charges=my_charges", "--epochs", "2", "--quiet", "--out", out, cwd=tmp_path, OMP_NUM_THREADS="1")
        results.append(json.loads((tmp_path / out / "report.json").read_text())["test_mae"])
    assert results[0] == results[1]


@pytest.mark.parametrize("args, words", [
    (("demo", "--data", "nowhere.xyz"), "nowhere.xyz"),
    (("demo", "--data", "empty.xyz"), "empty.xyz"),
    (("demo", "--data", "nan.xyz"), "nan.xyz, frame 3"),
    (("demo", "--data", "twice.xyz"), "twice.xyz, frame 0"),
    (("demo", "--data", "own.xyz"), "frame 0: no charges"),
    (("demo", "--data", "own.xyz", "--key", "charges"), "write NAME=KEY"),
    (("demo", "--data", "few.xyz"), "at least 20"),
    (("reproduce", "water-charge"), "there are water-charges"),
    (("bench", "fast"), "there are neighbours"),
])
def test_user_errors_are_one_line(args, words, own_file, tmp_path):
    frames = list(waters())
    ase.io.write(tmp_path / "own.xyz", frames, format="extxyz")
    ase.io.write(tmp_path / "few.xyz", frames[:3], format="extxyz")
    (tmp_path / "empty.xyz").write_text("")
    broken = [f.copy() for f in frames]
    broken[3].positions[1, 2] = np.nan
    ase.io.write(tmp_path / "nan.xyz", broken, format="extxyz")
    frames[0].positions[2] = frames[0].positions[1]
    ase.io.write(tmp_path / "twice.xyz", frames, format="extxyz")
    before = sorted(tmp_path.iterdir())
    done = eqbook(*args, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    assert sorted(tmp_path.iterdir()) == before  # no folder, no half-written file


def test_help_imports_no_torch(tmp_path):
    code = "import sys; sys.argv = ['eqbook', '--help']\nfrom eqbook.cli import main\ntry: main()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)})
    assert done.stdout.splitlines()[-1] == "False" and "demo" in done.stdout


def test_lists(tmp_path):
    for command, names in (("reproduce", ("water-charges", "water-forces")), ("bench", ("neighbours", "scatter", "graphs", "schnet"))):
        done = eqbook(command, cwd=tmp_path)
        assert done.returncode == 0 and all(name in done.stdout for name in names)


def test_every_registered_record_is_stored():
    "What the chapters read exists, was written by the command it names, and carries what the number depends on."
    from eqbook.experiments.core import BENCHMARKS, EXPERIMENTS
    results = Path(__file__).parent.parent / "results"
    for verb, registry in (("reproduce", EXPERIMENTS), ("bench", BENCHMARKS)):
        for name in registry:
            stored = json.loads((results / f"{name}.json").read_text())
            assert stored["command"] == f"eqbook {verb} {name}"
            assert stored["machine"]["versions"]["torch"] and stored["wall_s"] > 0
            if verb == "reproduce": assert stored["split"]["sizes"] == [450, 50, 77] and len(stored["seeds"]) == 3
