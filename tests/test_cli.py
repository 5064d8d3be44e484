"The command line as a user meets it: a process, its exit code, one line on stderr, and what it leaves behind."
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest

from eqbook import console
from eqbook.cli import main
from eqbook.datasets.core import split
from eqbook.jobs import sizes

ROOT = Path(__file__).parent.parent
SCRIPT = shutil.which("eqbook", path=Path(sys.executable).parent)
TRAIN = ("train", "invnet", "--data", "own.xyz", "--key", "charges=my_charges", "--features", "8", "--interactions", "1",
         "--device", "cpu", "--schedule", "constant", "--epochs", "2")


def environment(**env): return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}


def eqbook(*args, cwd, preexec=None, **env):
    return subprocess.run([SCRIPT, *args], cwd=cwd, capture_output=True, text=True, timeout=300, env=environment(**env), preexec_fn=preexec)


def waters(n=24, seed=0):
    "Bent, stretched single waters whose charges depend on their bond lengths."
    rng = np.random.default_rng(seed)
    for _ in range(n):
        a, b, angle = rng.uniform(0.9, 1.05), rng.uniform(0.9, 1.05), np.deg2rad(rng.uniform(95, 115))
        atoms = ase.Atoms("OHH", [[0, 0, 0], [a, 0, 0], [b * np.cos(angle), b * np.sin(angle), 0]])
        q = np.array([0.3 + a - 0.96, 0.3 + b - 0.96])
        atoms.arrays["my_charges"] = np.array([-q.sum(), *q])
        yield atoms


def held_back():
    "Indices of the test frames among 24 frames of a file."
    frames = [ase.Atoms(info={"k": k}) for k in range(24)]
    return [f.info["k"] for f in split(frames, **sizes(frames, "own.xyz"))[2]]


USER = """from __future__ import annotations
from dataclasses import dataclass
import torch
CONST = 3
@dataclass
class Distances:
    power: float = 1.0
    def __call__(self, batch): return torch.zeros(len(batch.positions), 1, dtype=torch.float64).index_add(0, batch.idx_i, batch.d_ij[:, None] ** self.power)
class Wide:
    def __init__(self, width): pass
    def __call__(self, batch): return batch.positions.new_ones(3, 1)
class Leaves(Distances):
    def __call__(self, batch): raise SystemExit(3)
class Mute: pass
def flat(batch): return batch.positions.new_ones(3)
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    "Data files, good and bad, a layer that is not invariant, and a training of two epochs in net/."
    folder, frames = tmp_path_factory.mktemp("workshop"), list(waters())
    def put(name, frames): ase.io.write(folder / name, frames, format="extxyz")
    put("own.xyz", frames)
    put("few.xyz", frames[:3])
    (folder / "empty.xyz").write_text("")
    (folder / "cut.xyz").write_text("".join((folder / "own.xyz").read_text().splitlines(keepends=True)[:12]))
    broken = [f.copy() for f in frames]
    broken[3].positions[1, 2] = np.nan
    put("nan.xyz", broken)
    twice, sulfur = [f.copy() for f in frames], [f.copy() for f in frames]
    twice[0].positions[2] = twice[0].positions[1]
    put("twice.xyz", twice)
    sulfur[7].numbers[0] = 16
    put("sulfur.xyz", sulfur)
    put("others.xyz", list(waters(seed=9)))
    last = [f.copy() for f in frames]
    last[held_back()[0]].numbers[0] = 16
    put("last.xyz", last)
    (folder / "layers.py").write_text("class Slanted:\n    def __call__(self, batch): return batch.positions[:, :1]\n")
    (folder / "user.py").write_text(USER)
    (folder / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "nul.py").write_bytes(b"x = 1\0")
    done = eqbook(*TRAIN, "--out", "net", "--quiet", cwd=folder)
    assert done.returncode == 0 and done.stderr == "" and "MAE" in done.stdout, done.stderr
    return folder


def content(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_line(done, words, code=1):
    assert done.returncode == code, (done.returncode, done.stderr)
    assert words in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith("eqbook: ") and "Traceback" not in done.stderr, done.stderr


def inside(*args):
    "The same in this process, for what needs no process of its own: the exit code; stderr is pytest's."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eqbook", *args])
        with pytest.raises(SystemExit) as done: main()
    return done.value.code


def test_demo_on_own_file(workshop, tmp_path):
    shutil.copy(workshop / "own.xyz", tmp_path)
    args = ("demo", "--data", "own.xyz", "--key", "charges=my_charges", "--epochs", "3", "--quiet")
    first, second = (eqbook(*args, cwd=tmp_path) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "charge MAE" in first.stdout and "rotation" in first.stdout and first.stderr == ""
    for folder in ("eqbook-demo", "eqbook-demo-2"):  # the second run overwrites nothing
        report = json.loads((tmp_path / folder / "report.json").read_text())
        assert report["frames"] == {"train": 18, "valid": 1, "test": 3} and report["neutral"]
        assert {p.name for p in (tmp_path / folder).iterdir()} == {"report.json", "weights.safetensors", "parity.png", "learning_curve.png"}
    reports = [json.loads((tmp_path / folder / "report.json").read_text()) for folder in ("eqbook-demo", "eqbook-demo-2")]
    assert reports[0]["test_mae"] == reports[1]["test_mae"]  # same seed, same result
    assert (tmp_path / "own.xyz").read_bytes() == (workshop / "own.xyz").read_bytes()


@pytest.mark.parametrize("args, words", [  # real processes
    (("train", "schnet", *TRAIN[2:], "--out", "new"), "there are invnet, simpleeqnet, eqnet"),
    (("train", "schnet", "--out", "new"), "there are invnet, simpleeqnet, eqnet"),
    ((*TRAIN, "--out", "net"), "net is not empty"),
    ((*TRAIN, "--out", "net", "--resume", "--lr", "0.1"), "settings.lr: 0.005 there, 0.1 here"),
    (("start", "/sys/eqbook"), "/sys/eqbook"),
    (("start", "."), "is not empty"),
    (("check-symmetry", "layers.py:Slanted"), "not invariant: rotation"),
    (("reproduce", "water-charge"), "there are water-charges"),
])
def test_a_mistake_is_one_line(args, words, workshop):
    before = content(workshop)
    one_line(eqbook(*args, cwd=workshop), words)
    assert content(workshop) == before  # no folder, no half-written file, nothing lost


@pytest.mark.parametrize("args, words, code", [
    (("demo", "--data", "nowhere.xyz"), "nowhere.xyz", 1),
    (("demo", "--data", "empty.xyz"), "empty.xyz", 1),
    (("demo", "--data", "twice.xyz"), "twice.xyz, frame 0", 1),
    (("demo", "--data", "own.xyz"), "frame 0: no charges", 1),
    (("demo", "--data", "few.xyz", "--key", "charges=my_charges"), "at least 20", 1),
    ((*TRAIN, "--data", "cut.xyz", "--out", "new"), "cut.xyz, frame 2: truncated", 1),
    ((*TRAIN, "--data", "nan.xyz", "--out", "new"), "nan.xyz, frame 3", 1),
    ((*TRAIN, "--data", "few.xyz", "--out", "new"), "at least 20", 1),
    ((*TRAIN, "--key", "charges", "--out", "new"), "write NAME=KEY", 1),
    ((*TRAIN, "--target", "spin", "--out", "new"), "spin", 1),
    ((*TRAIN, "--dtype", "float16", "--out", "new"), "float32 or float64", 1),
    ((*TRAIN, "--out", "own.xyz"), "own.xyz is a file", 1),
    ((*TRAIN, "--out", "new", "--resume"), "no training run to continue", 1),
    ((*TRAIN, "--data", "others.xyz", "--out", "net", "--resume"), "characters) here", 1),
    ((*TRAIN, "--out", "new", "--epochs", "0"), "--epochs", 2),
    (("train", "invnet"), "--out", 2),
    (("evaluate", "nothing"), "water-", 1),
    (("evaluate", "net", "--data", "others.xyz"), "others.xyz, frame 0: no charges", 1),
    ((*TRAIN, "--data", "nowhere.xyz", "--out", "new"), "nowhere.xyz: no such file", 1),
    ((*TRAIN, "--out", "/sys/eqbook"), "/sys/eqbook", 1),
    (("evaluate", "net", "--data", "sulfur.xyz", "--key", "charges=my_charges"), "sulfur.xyz, frame 7 has S; the model has seen H, O only", 1),
    ((*TRAIN, "--data", "last.xyz", "--out", "new"), f"last.xyz, frame {held_back()[0]} has S; the model has seen H, O only", 1),
    ((*TRAIN, "--lr", "0", "--out", "new"), "lr=0: it must be above zero", 1),
    ((*TRAIN, "--lr", "nan", "--out", "new"), "lr=nan: it must be above zero", 1),
    ((*TRAIN, "--cutoff", "1e9", "--out", "new"), "cutoff=1e+09: it must be above zero and at most 100", 1),
    ((*TRAIN, "--lmax", "3", "--out", "new"), "--lmax is for simpleeqnet and eqnet", 1),
    ((*TRAIN, "--device", "gpu", "--out", "new"), "write auto, cpu, cuda", 1),
    ((*TRAIN, "--device", "cuda:99", "--out", "new"), "eqbook doctor", 1),
    (("bench", "fast"), "there are neighbours", 1),
    (("data", "fetch", "qm9"), "there are gfn2", 1),
    (("data", "make", "pbe0"), "there are gfn2", 1),
    (("data", "steal"), "list, fetch NAME or make NAME", 1),
    (("progress", "net"), "net: no course", 1),
    (("check-symmetry", "layers.py:Upright"), "its classes are Slanted", 1),
    (("check-symmetry", "layers.py:Slanted", "--args", "{"), "not JSON", 1),
    (("check-symmetry", "leaves.py:Net"), "leaves.py, line 2: it ends the program, SystemExit(0)", 1),
    (("check-symmetry", "user.py:Leaves"), "user.py, line 13: it ends the program, SystemExit(3)", 1),
    (("check-symmetry", "nul.py:Net"), "nul.py: ", 1),
    (("check-symmetry", "user.py:CONST"), "no class and no function, but 3; its classes are Distances, Wide", 1),
    (("check-symmetry", "user.py:Mute"), "cannot be called with a batch", 1),
    (("check-symmetry", "user.py:Wide"), "missing 1 required positional argument: 'width'; give the arguments of the class with --args", 1),
    (("check-symmetry", "user.py:Wide", "--args", '{"with": 3}'), "unexpected keyword argument 'with'; give the arguments", 1),
    (("check-symmetry", "user.py:Wide", "--args", '{"width": 3}'), "say --per system", 1),
    (("check-symmetry", "user.py:flat", "--args", '{"width": 3}'), "flat is no class", 1),
    (("check-symmetry", "user.py:Distances", "--per", "cluster"), "not 'cluster'", 1),
    (("check-symmetry", "user.py:Distances", "--cutoff", "-1"), "cutoff=-1: it must be above zero", 1),
    (("data", "fetch", "pbe0", "--seed", "1"), "--out and --seed are for eqbook data make", 1),
    (("data", "list", "--out", "x.npz"), "--out and --seed are for eqbook data make", 1),
    (("data", "list", "gfn2"), "takes no name", 1),
    (("reproduce", "water-charges", "--list"), "leave out water-charges", 1),
    (("start", ""), "name a folder", 1),
    (("check-symmetry", "layers.py:Slanted", "--group", "SU(2)"), "unknown group", 1),
    (("dance",), "dance", 2),
])
def test_more_mistakes(args, words, code, workshop, capfd, monkeypatch):
    monkeypatch.chdir(workshop)
    before = content(workshop)
    done = subprocess.CompletedProcess(args, inside(*args), *capfd.readouterr())
    one_line(done, words, code)
    assert len(done.stderr) < 1500 and content(workshop) == before


def test_what_was_good_survives_a_full_disk(workshop, tmp_path):
    "No file may grow beyond 2 kB, for real: the command says so, the training of before is untouched, and goes on when there is room."
    shutil.copytree(workshop, tmp_path, dirs_exist_ok=True)
    before, longer = content(tmp_path / "net"), (*TRAIN[:-1], "4", "--out", "net", "--resume", "--quiet")
    one_line(eqbook(*longer, cwd=tmp_path, preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))), "cannot be written")
    after = content(tmp_path / "net")
    assert after["weights.safetensors"] == before["weights.safetensors"] and not list(tmp_path.rglob("*.tmp"))
    done = eqbook(*longer, cwd=tmp_path)
    assert done.returncode == 0 and "4 epochs" in done.stdout, done.stderr


def test_a_loss_that_is_no_number_stops(workshop, tmp_path, monkeypatch, capfd):
    shutil.copy(workshop / "own.xyz", tmp_path)
    done = eqbook(*TRAIN, "--lr", "1e30", "--out", "wild", "--quiet", cwd=tmp_path)
    one_line(done, "epoch 1, batch")
    assert "step" in done.stderr and "wild keeps epoch 0" in done.stderr
    monkeypatch.chdir(tmp_path)
    one_line(subprocess.CompletedProcess((), inside("evaluate", "wild"), *capfd.readouterr()), "no epoch was finished")


def test_ctrl_c_and_resume(workshop, tmp_path, monkeypatch, capfd):
    "A training is stopped in the middle: exit code 130, one line after the bar with its time left; what is there can be used, and goes on."
    shutil.copy(workshop / "own.xyz", tmp_path)
    command, log = (*TRAIN[:-1], "60", "--out", "net"), tmp_path / "net" / "log.csv"
    process = subprocess.Popen([SCRIPT, *command], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (log.exists() and log.read_text().count("\n") > 3): time.sleep(0.01); assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    last = err.splitlines()[-1]
    assert process.returncode == 130 and out == "" and last.startswith("eqbook: ") and "--resume" in last and "Traceback" not in err, err
    assert re.search(r"\d\d:\d\d<\d\d:\d\d", err)
    assert not list(tmp_path.rglob("*.tmp")) and 3 <= log.read_text().count("\n") - 1 < 60
    monkeypatch.chdir(tmp_path)
    assert inside("evaluate", "net") == 0 and "MAE" in capfd.readouterr().out
    done = eqbook(*command, "--resume", "--quiet", cwd=tmp_path)
    assert done.returncode == 0 and "60 epochs" in done.stdout and done.stderr == "" and log.read_text().count("\n") == 61, done.stderr


def test_training_leaves_what_load_reads(workshop, monkeypatch):
    import eqbook as package
    model = package.load(workshop / "net")
    frames = list(waters(3, seed=5))
    assert [p["charges"].shape for p in model.predict(frames)] == [(3,)] * 3
    assert abs(sum(p["charges"].sum() for p in model.predict(frames))) < 1e-5


def test_own_training_frames_are_left_out(workshop, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(workshop)
    for args in ((), ("--data", "own.xyz"), ("--data", "own.xyz", "--key", "charges=my_charges")):
        assert inside("evaluate", "net", *args) == 0
        assert "3 frames; 21 others belong to its training\n" in capfd.readouterr().out
    assert inside("evaluate", "net", "--data", "others.xyz", "--key", "charges=my_charges") == 0
    assert "24 frames\n" in capfd.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert inside("evaluate", str(workshop / "net")) == 1
    assert "own.xyz, which is not here: name data with --data" in capfd.readouterr().err


def test_training_frames_are_known_in_every_file(workshop, tmp_path, capfd, monkeypatch):
    "Written anew, in other company, in another order; and a folder that does not say its frames is told so."
    monkeypatch.chdir(tmp_path)
    frames, others = list(waters()), list(waters(seed=9))
    evaluate = ("evaluate", "net", "--data", "mixed.xyz", "--key", "charges=my_charges")
    def answer():
        assert inside(*evaluate) == 0
        return capfd.readouterr().out
    shutil.copytree(workshop / "net", "net")
    for chosen, words in ((frames[::-1], "3 frames; 21 others belong"), ([*frames, *others], "27 frames; 21 others belong"),
                          ([*others, frames[held_back()[0]]], "25 frames\n")):
        ase.io.write("mixed.xyz", chosen, format="extxyz")
        assert f"mixed.xyz: {words}" in answer()
    card = json.loads(Path("net/model.json").read_text())
    del card["about"]["data"]["seen"], card["about"]["split"]
    for data in (card["about"]["data"], {}, "my frames"):
        Path("net/model.json").write_text(json.dumps({**card, "about": {**card["about"], "data": data}}))
        assert "25 frames; which of them it was trained on is not known, none could be left out" in answer()
    assert inside("evaluate", "net") == 1 and "name data with --data" in capfd.readouterr().err


def test_a_folder_comes_before_a_pretrained_model(workshop, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(workshop / "net", "water-dipoles")
    assert inside("evaluate", "water-dipoles", "--data", str(workshop / "own.xyz")) == 0
    assert "3 frames; 21 others" in (out := capfd.readouterr().out) and "charges" in out


def test_one_energy_without_forces(tmp_path, monkeypatch, capfd):
    "Half of a loss would be lost without a word."
    from eqbook.datasets.water import load_water
    monkeypatch.chdir(tmp_path)
    frames = load_water("gfn2", subset="sizes")[:24]
    for f in frames: del f.arrays["charges"], f.info["quadrupole"], f.info["dipole"], f.info["start"]
    first, *rest = frames
    del first.arrays["forces"]
    ase.io.write("some.xyz", [first, *rest], format="extxyz")
    assert inside("train", "invnet", "--target", "energy", "--data", "some.xyz", "--out", "pes") == 1
    assert "some.xyz, frame 0: no forces, but frame 1 has them" in capfd.readouterr().err and not Path("pes").exists()


def test_user_files_in_check_symmetry(workshop, monkeypatch, capfd):
    "A dataclass with annotations of the future finds its module; its neighbours of the same name are left alone."
    monkeypatch.chdir(workshop)
    before = sys.modules.get("user")
    assert inside("check-symmetry", "user.py:Distances", "--args", '{"power": -1}') == 0 and "holds" in capfd.readouterr().out
    assert sys.modules.get("user") is before
    assert inside("check-symmetry", "user.py:Distances", "--per", "atom", "--quiet") == 0 and capfd.readouterr().out == ""


def test_ctrl_c_before_anything_is_written(workshop, tmp_path, monkeypatch, capfd):
    "Nothing is promised that is not there."
    def stopped(*_, **__): raise KeyboardInterrupt
    monkeypatch.chdir(workshop)
    monkeypatch.setattr("eqbook.jobs.labelled_frames", stopped)
    monkeypatch.setattr("eqbook.jobs.fetch", stopped)
    for args in ((*TRAIN, "--out", "new"), ("data", "fetch", "pbe0")):
        assert inside(*args) == 130 and capfd.readouterr().err == "eqbook: stopped\n"
    assert inside(*TRAIN, "--out", "net", "--resume") == 130 and "--resume goes on" in capfd.readouterr().err


def test_ctrl_c_while_the_commands_are_read(tmp_path):
    "A typer that is interrupted stands in for the first fifth of a second."
    (tmp_path / "typer.py").write_text("import os, time\nos.kill(os.getpid(), 2)\ntime.sleep(5)\n")
    done = subprocess.run([sys.executable, "-c", "from eqbook import main\nmain()"], capture_output=True, text=True,
                          env=environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}"))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "eqbook: stopped\n")


def test_a_download_that_fails_is_one_short_line(tmp_path):
    "A closed port, by a name that the libraries would tell in 500 characters."
    code = ("import sys\nfrom eqbook.datasets import core\nfrom eqbook.cli import main\n"
            "name = 'waterAims.xyz'\ncore.PUBLIC[name] = core.PublicFile('http://127.0.0.1:9/' + name, core.PUBLIC[name].sha256)\nmain()")
    asked = {k: v for k, v in environment(XDG_CACHE_HOME=str(tmp_path), NO_PROXY="*").items() if k != "EQBOOK_DATA_DIR"}
    done = subprocess.run([sys.executable, "-c", code, "data", "fetch", "pbe0"], capture_output=True, text=True, env=asked)
    one_line(done, "waterAims.xyz (Connection refused). Download it")
    assert len(done.stderr) < 250 and not list(tmp_path.rglob("*.xyz"))


def test_evaluate_shows_a_bar_when_it_takes_long(workshop, monkeypatch, capfd):
    import eqbook.models
    answers = eqbook.models._answers
    def slow(*args):
        time.sleep(1.1)
        return answers(*args)
    monkeypatch.chdir(workshop)
    evaluate = ("evaluate", "net", "--data", "others.xyz", "--key", "charges=my_charges")
    assert inside(*evaluate) == 0 and capfd.readouterr().err == ""
    monkeypatch.setattr(eqbook.models, "_answers", slow)
    assert inside(*evaluate) == 0 and "24/24" in capfd.readouterr().err
    assert inside(*evaluate, "--quiet") == 0 and capfd.readouterr().err == ""


def test_course_and_class(tmp_path):
    assert "next: cd 'my course', then" in eqbook("start", "my course", cwd=tmp_path).stdout
    assert "next: cd anna" in eqbook("start", "anna", cwd=tmp_path).stdout
    assert eqbook("start", "anna", "--quiet", cwd=tmp_path).stdout == "" == eqbook("start", "ben", "-q", cwd=tmp_path).stdout
    (tmp_path / "anna" / "01_graphs.progress.json").write_text(json.dumps(dict(notebook="01_graphs", exercises={"ex_1_1": dict(passed=True, attempts=1)})))
    assert re.search(r"01_graphs +1 of", eqbook("progress", "anna", cwd=tmp_path).stdout)
    (tmp_path / "ben" / "01_graphs.progress.json").write_text("{")
    done = eqbook("progress", "anna", "ben", "--csv", cwd=tmp_path)
    one_line(done, "ben/01_graphs.progress.json")
    rows = done.stdout.splitlines()
    assert rows[0].startswith("student,chapter,exercise") and sum(",ex_1_1," in r for r in rows) == 2 and done.stdout.count("anna,") > 10


def test_lists(capfd):
    from eqbook.experiments.core import BENCHMARKS, EXPERIMENTS
    from eqbook.jobs import DATASETS
    for args, names in ((["reproduce"], EXPERIMENTS), (["reproduce", "--list"], EXPERIMENTS), (["bench"], BENCHMARKS),
                        (["data"], DATASETS), (["data", "list"], DATASETS)):
        assert inside(*args) == 0
        assert [line.split()[0] for line in capfd.readouterr().out.splitlines()] == list(names)


def test_a_bug_is_one_line_and_traceback_shows_it(monkeypatch, capfd):
    def buggy(*_, **__): return {}["key"]
    monkeypatch.setattr("eqbook.course.start", buggy)
    assert inside("start", "x") == 1
    assert capfd.readouterr().err == "eqbook: KeyError: 'key' (not expected; eqbook --traceback COMMAND shows where)\n"
    monkeypatch.setattr(sys, "argv", ["eqbook", "--traceback", "start", "x"])
    with pytest.raises(KeyError): main()


def test_full_disk_behind_stdout_and_closed_pipe(tmp_path):
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = subprocess.run([SCRIPT, "bench"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
        assert done.returncode == 1 and done.stderr == "eqbook: No space left on device\n"
    done = subprocess.run(f"'{SCRIPT}' data list | true", shell=True, stderr=subprocess.PIPE, text=True, env=environment())
    assert done.stderr == ""


def quickest(*command, runs=2):
    def once():
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, env=environment())
        return time.perf_counter() - start
    return min(once() for _ in range(runs))


def test_help_is_fast_and_doctor_imports_torch_only():
    "In seconds; or, where others are at work on this machine, beside the time that importing torch takes now."
    torch, shown, doctor = quickest(sys.executable, "-c", "import torch", runs=3), quickest(SCRIPT, "--help", runs=5), quickest(SCRIPT, "doctor", runs=3)
    print(f"import torch {torch:.2f} s, eqbook --help {shown:.2f} s, eqbook doctor {doctor:.2f} s")
    assert shown < 0.3 or shown < torch / 3
    assert doctor < 3 or doctor < 2 * torch


@pytest.mark.parametrize("args", [("--help",), (), ("train", "--help"), ("reproduce",), ("--version",), ("data", "list"), ("progress", "--help")])
def test_no_torch_where_none_is_needed(args):
    code = "import sys\nfrom eqbook.cli import main\ntry: main()\nexcept SystemExit as done: print(done.code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=environment())
    assert done.stdout.splitlines()[-1] == "0 False" and len(done.stdout.splitlines()) > 1, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash(tmp_path):
    "The script that --show-completion prints, sourced by bash, completes commands, options and names."
    shown = eqbook("--show-completion", "bash", cwd=tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout
    (tmp_path / "completion.sh").write_text(shown)
    function = re.search(r"complete .*-F (\w+) eqbook", shown)[1]
    def completed(*words):
        line = f"source completion.sh; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; {function} eqbook; echo ${{COMPREPLY[@]}}"
        path = f"{Path(SCRIPT).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, env=environment(PATH=path)).stdout.split()
    assert completed("eqbook", "che") == ["check-symmetry"]
    assert completed("eqbook", "reproduce", "water-f") == ["water-forces"]
    assert completed("eqbook", "train", "--res") == ["--resume"] and completed("eqbook", "xyz") == []


def test_make_needs_its_program(monkeypatch):
    from eqbook import jobs
    monkeypatch.setitem(jobs.DATASETS["gfn2"], "needs", ("nowhere_to_be_found", "data"))
    with pytest.raises(ImportError, match=r'pip install "eqbook\[data\]"'): jobs.make_dataset("gfn2", "x.npz")


def test_make_calls_the_maker(monkeypatch, tmp_path):
    from eqbook import jobs
    from eqbook.datasets import water_make
    calls = []
    monkeypatch.setattr(water_make, "main", calls.append)
    jobs.make_dataset("gfn2", tmp_path / "a.npz", 3)
    assert calls == [["--out", str(tmp_path / "a.npz"), "--log", str(tmp_path / "a-make.json"), "--seed", "3"]]


def test_one_process_of_several_speaks(capfd, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert inside("start", "/sys/eqbook") == 1 and capfd.readouterr() == ("", "")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert inside("start", "/sys/eqbook") == 1 and capfd.readouterr().err.count("\n") == 1


def test_reasons():
    assert console.reason(OSError(28, "No space left on device", "a.json")) == "a.json: No space left on device"
    assert "not expected" in console.reason(RuntimeError("odd")) and "not expected" not in console.reason(ValueError("yours"))


def test_every_registered_record_is_stored():
    "What the chapters read exists, was written by the command it names, and carries what the number depends on."
    from eqbook.experiments.core import BENCHMARKS, EXPERIMENTS
    from eqbook.experiments.dynamics import weights
    results = ROOT / "results"
    for verb, registry in (("reproduce", EXPERIMENTS), ("bench", BENCHMARKS)):
        for name in registry:
            stored = json.loads((results / f"{name}.json").read_text())
            assert stored["command"] == f"eqbook {verb} {name}"
            assert stored["machine"]["versions"]["torch"] and stored["wall_s"] > 0
            if name == "water-dynamics":  # nothing is trained: its numbers belong to the weights that are shipped
                assert stored["seeds"] and stored["weights"] == weights()
            elif name in ("water-charges", "water-forces", "water-dipoles"): assert stored["split"]["sizes"] == [450, 50, 77] and len(stored["seeds"]) == 3
