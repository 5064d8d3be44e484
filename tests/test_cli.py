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

ROOT = Path(__file__).parent.parent
SCRIPT = shutil.which("eqbook", path=Path(sys.executable).parent)
TRAIN = ("train", "invnet", "--target", "charges", "--data", "own.xyz", "--key", "charges=my_charges", "--features", "8", "--interactions", "1",
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
    (folder / "layers.py").write_text("class Slanted:\n    def __call__(self, batch): return batch.positions[:, :1]\n")
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
    ((*TRAIN, "--out", "new", "--epochs", "0"), "--epochs", 2),
    (("train", "invnet"), "--target", 2),
    (("evaluate", "nothing"), "water-", 1),
    (("evaluate", "net", "--data", "others.xyz"), "others.xyz, frame 0: no charges", 1),
    ((*TRAIN, "--data", "nowhere.xyz", "--out", "new"), "nowhere.xyz: no such file", 1),
    ((*TRAIN, "--out", "/sys/eqbook"), "/sys/eqbook", 1),
    (("evaluate", "net", "--data", "sulfur.xyz", "--key", "charges=my_charges"), "has S; the model has seen", 1),
    (("bench", "fast"), "there are neighbours", 1),
    (("data", "fetch", "qm9"), "there are gfn2", 1),
    (("data", "make", "pbe0"), "there are gfn2", 1),
    (("data", "steal"), "list, fetch NAME or make NAME", 1),
    (("progress", "net"), "net: no course", 1),
    (("check-symmetry", "layers.py:Upright"), "its classes are Slanted", 1),
    (("check-symmetry", "layers.py:Slanted", "--args", "{"), "not JSON", 1),
    (("check-symmetry", "layers.py:Slanted", "--group", "SU(2)"), "unknown group", 1),
    (("dance",), "dance", 2),
])
def test_more_mistakes(args, words, code, workshop, capfd, monkeypatch):
    monkeypatch.chdir(workshop)
    before = content(workshop)
    done = subprocess.CompletedProcess(args, inside(*args), *capfd.readouterr())
    one_line(done, words, code)
    assert content(workshop) == before


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
        assert "3 frames, those held back" in capfd.readouterr().out
    assert inside("evaluate", "net", "--data", "others.xyz", "--key", "charges=my_charges") == 0
    assert "24 frames\n" in capfd.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert inside("evaluate", str(workshop / "net")) == 1
    assert "own.xyz, which is not here: name data with --data" in capfd.readouterr().err


def test_course_and_class(tmp_path):
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
    for args, names in ((["reproduce"], ("water-charges", "water-forces")), (["reproduce", "--list"], ("water-charges",)),
                        (["bench"], ("neighbours", "scatter", "graphs", "schnet")), (["data"], ("gfn2", "pbe0")), (["data", "list"], ("gfn2",))):
        assert inside(*args) == 0 and all(name in capfd.readouterr().out for name in names[:1])


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
    "Beside the time that importing torch takes on this machine."
    torch = quickest(sys.executable, "-c", "import torch")
    assert quickest(SCRIPT, "--help") < torch / 2 and quickest(SCRIPT, "doctor") < 2 * torch


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
