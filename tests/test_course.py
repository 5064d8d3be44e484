"A course is updated without losing a line, whatever happens, and a class is counted whatever its files hold."
import csv
import errno
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from eqbook import course
from eqbook.course import MARKER, course_files, progress, progress_csv, progress_table, start
from eqbook.exercises import catalogue
from eqbook.records import keep

EXERCISES = {"ex_1_1": dict(notebook="01_a", title="first"), "ex_1_2": dict(notebook="01_a", title="second"), "ex_2_1": dict(notebook="02_b", title="third")}


def edition(folder, number, names=("01_a", "02_b")):
    "What the wheel of an edition carries."
    folder = folder / f"edition-{number}"
    (folder / "results").mkdir(parents=True)
    for name in names: (folder / f"{name}.ipynb").write_text(f"{name} of edition {number}")
    (folder / "results" / "numbers.json").write_text("{}")
    (folder / "exercises.json").write_text(json.dumps({k: dict(e, solution="secret") for k, e in EXERCISES.items()}))
    return folder


def files(folder): return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_course_of_this_edition(tmp_path):
    "The real one: every notebook opens, none holds a solution, and the environment page runs."
    done = start(tmp_path / "course")
    assert set(done) == {"added"} and list(start(tmp_path / "course")) == ["same"]
    found = files(tmp_path / "course")
    notebooks = {e["notebook"] for e in catalogue().values()}
    assert {f"{n}.ipynb" for n in notebooks} | {"README.md", "environment.ipynb", MARKER} <= set(found) and "exercises.json" not in found
    for name in found:
        if name.endswith(".ipynb"): nbformat.validate(nbformat.read(tmp_path / "course" / name, as_version=4))
    for k, e in catalogue().items():
        lines = [line for line in e["solution"].splitlines() if line not in e["stub"] and len(line.strip()) > 40]
        code = "\n".join(c.source for c in nbformat.read(tmp_path / "course" / f"{e['notebook']}.ipynb", as_version=4).cells)
        assert not lines or lines[-1].strip() not in code, k
    cell = next(c for c in nbformat.read(tmp_path / "course" / "environment.ipynb", as_version=4).cells if c.cell_type == "code")
    tree = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", cell.source], capture_output=True, text=True, env=tree)
    assert "torch" in done.stdout and "devices" in done.stdout, done.stderr


def lose(folder, source):
    "What `start` must not do: copy everything."
    for name, new in course_files(source).items(): (folder / name).write_bytes(new)


@pytest.mark.parametrize("update, safe", [(start, True), (lose, False)])
def test_no_line_is_ever_lost(update, safe, tmp_path, monkeypatch):
    "Random histories of edits, deletions and editions: what the student wrote last is in the course afterwards."
    rng, lost = random.Random(0), 0
    for history in range(20):
        mine, written = tmp_path / f"course-{history}", {}
        monkeypatch.setattr(course, "__version__", "1.0")
        start(mine, edition(tmp_path / str(history), 0))
        for number in range(1, 5):
            for path in sorted(p for p in mine.rglob("*") if p.suffix in (".ipynb", ".md") and rng.random() < 0.4):
                written[path] = f"answer {history} {number} {path.name}"
                path.write_text(written[path])
            if rng.random() < 0.3: (mine / "02_b.ipynb").unlink(missing_ok=True); written.pop(mine / "02_b.ipynb", None)
            monkeypatch.setattr(course, "__version__", f"1.{number // 2}") # two editions share a number
            update(mine, edition(tmp_path / str(history), number, ("01_a", "02_b", "03_c")[:2 + number // 2]))
            lost += sum(path.read_text() != text for path, text in written.items())
        if safe:
            newest = {p.read_text() for p in mine.glob("*.ipynb")}
            assert {"01_a of edition 4", "02_b of edition 4", "03_c of edition 4"} <= newest # and the newest edition is all there
    assert (lost == 0) is safe


def test_interrupted_at_every_file(tmp_path, monkeypatch):
    "A disk that is full at the n-th write, for every n: the course is whole or can be completed, nothing half-written."
    old, new = edition(tmp_path, 1), edition(tmp_path, 2)
    write = course.write_file
    for fails_at in range(9):
        for first in (None, old):
            mine, calls = tmp_path / f"{fails_at}{first is None}", iter(range(99))
            if first: start(mine, first); (mine / "01_a.ipynb").write_text("my answer")
            def full(path, content, calls=calls, fails_at=fails_at):
                if next(calls) >= fails_at: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                return write(path, content)
            with monkeypatch.context() as patch:
                patch.setattr(course, "write_file", full)
                try: start(mine, new)
                except OSError: pass
            start(mine, new)
            found = files(mine)
            assert found["02_b.ipynb"] == "02_b of edition 2" and found["results/numbers.json"] == "{}"
            assert found["01_a.ipynb"] == ("my answer" if first else "01_a of edition 2")
            assert not [name for name in found if name.endswith(".tmp")] and set(json.loads(found[MARKER])["files"]) >= {"02_b.ipynb", "README.md"}


def test_refused_folders_stay_as_they_are(tmp_path):
    source = edition(tmp_path, 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("work")
    (tmp_path / "git").mkdir()
    (tmp_path / "git" / ".gitignore").touch() # hidden files are no obstacle
    with pytest.raises(ValueError, match="thesis.tex"): start(tmp_path / "full", source)
    with pytest.raises(NotADirectoryError, match="is a file"): start(tmp_path / "full" / "thesis.tex", source)
    with pytest.raises(OSError): start(tmp_path / "full" / "thesis.tex" / "course", source)
    assert files(tmp_path / "full") == {"thesis.tex": "work"}
    assert "README.md" in start(tmp_path / "git", source)["added"]


def test_what_check_stores_is_read(tmp_path, monkeypatch):
    "The two sides of the progress file agree."
    start(tmp_path)
    k, e = next(iter(catalogue().items()))
    keep(k, e, lambda record: dict(passed=True, attempts=record["attempts"] + 2, first_passed="2026-11-22T14:00:00+00:00"), tmp_path)
    rows, faults = progress([tmp_path])
    row = next(r for r in rows if r["exercise"] == k)
    assert not faults and row["passed"] and row["attempts"] == 2 and sum(r["passed"] for r in rows) == 1 and row["chapter"] == e["notebook"]
    assert "1 of" in progress_table(rows)


def test_a_class_in_a_spreadsheet(tmp_path):
    "Thirty students, one broken file: one row for each student and exercise, numbers as 0 and 1, no cell that is a formula."
    source, folders = edition(tmp_path, 1), [tmp_path / name / "eq" for name in [f"student {k:02d}" for k in range(28)] + ["=cmd|'x'!A0", "Ærøskøbing, Jürgen"]]
    for k, folder in enumerate(folders):
        folder.mkdir(parents=True)
        stored = {"ex_1_1": dict(passed=k % 2 == 0, attempts=k, first_passed=None, hints=0, solution_seen=False)}
        (folder / "01_a.progress.json").write_text(json.dumps(dict(notebook="01_a", exercises=stored)) if k != 3 else "{broken")
    rows, faults = progress(folders, source)
    assert len(faults) == 1 and "student 03" in faults[0]
    table = list(csv.DictReader(io.StringIO(progress_csv(rows))))
    assert len(table) == 30 * len(EXERCISES) and sum(r["passed"] == "1" for r in table) == 15
    assert not [v for r in table for v in r.values() if v[:1] in tuple("=+-@")]
    assert {r["student"] for r in table} >= {"Ærøskøbing, Jürgen/eq", "'=cmd|'x'!A0/eq"}
    assert progress_table(rows).count("\n") == 30


def test_doctor_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(course, "requires", lambda _: ["torch>=99", "numpy", "nowhere", 'nothing; extra == "train"', 'x; python_version < "3"'])
    report = course.doctor()
    text = course.doctor_table(report)
    assert not report["ok"] and [p["name"] for p in report["parts"]] == ["torch", "numpy", "nowhere", "nothing"]
    assert "TOO OLD OR NEW: >=99" in text and "MISSING" in text and "not installed" in text and 'pip install "eqbook[train]"' in text
