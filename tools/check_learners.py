"""The learner's path, walked in a fresh environment that has only the wheel: `eqbook start`, then every notebook in a real Jupyter kernel.

With the solutions put back every check is green and `eqbook progress` counts them all.
As it is handed out, a notebook stops at its first exercise with one friendly line."""
import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools import check_wheel
from tools.common import environment, verdict

WORKERS, LIMIT = min(2, os.cpu_count() or 1), 900

RUN = """
import json, sys
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from eqbook.exercises import catalogue
from eqbook.learner import put_back
path, solve, limit = Path(sys.argv[1]), sys.argv[2] == "solved", int(sys.argv[3])
nb, stopped = nbformat.read(path, 4), None
if solve: nb = put_back(nb, catalogue())
for cell in nb.cells:
    if cell.cell_type == "code": cell.outputs, cell.execution_count = [], None
try: NotebookClient(nb, timeout=limit, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
except CellExecutionError as error: stopped = f"{error.ename}: {error.evalue}"
ran = [c for c in nb.cells if c.cell_type == "code" and c.execution_count]
def html(cell): return "".join(o.get("data", {}).get("text/html", "") for o in cell.outputs)
checks = {c.metadata.eqbook.check: html(c) for c in ran if "check" in c.metadata.get("eqbook", {})}
traceback = "".join("".join(o.get("traceback", [])) for o in ran[-1].outputs)
wanted = [e for e, about in catalogue().items() if about["notebook"] == path.stem]
print(json.dumps(dict(stopped=stopped, checks=checks, traceback=traceback, last=ran[-1].metadata.get("eqbook", {}), wanted=wanted)))
"""


def faults_solved(found):
    "What is wrong with the run of a notebook in which all exercises are solved."
    if found["stopped"]: return [f"stopped: {found['stopped']}", *(card for card in found["checks"].values() if "eqbook-passed" not in card)]
    red = [exercise for exercise in found["wanted"] if "eqbook-passed" not in found["checks"].get(exercise, "")]
    return [f"no green card for {', '.join(red)}"] if red else []


def faults_stubs(found):
    "What is wrong with the run of a notebook as it is handed out."
    first = next(iter(found["checks"]), None)
    if found["stopped"] is None: return ["it ran to the end without an answer"]
    if found["last"].get("check") != first or first not in found["wanted"]:
        return [f"stopped at {found['last'] or 'a cell that is no check'}: {found['stopped']}"]
    faults = [] if f"{first} is not solved yet" in found["stopped"] else [f"it says {found['stopped']!r}"]
    if "There is no answer yet" not in found["checks"][first]: faults.append(f"the card of {first} says {found['checks'][first]!r}")
    return faults + (["a traceback is shown"] if "Traceback" in found["traceback"] else [])


def check(tree, folder):
    "Results of walking the learner's path with the wheel of `tree`, all inside `folder`."
    folder = Path(folder)
    wheel, words = check_wheel.build(tree, folder/"dist")
    if not wheel: return (yield verdict("learners: the wheel builds", [words]))
    python = check_wheel.fresh_environment(folder/"fresh", wheel)
    env = environment("") | {"IN_TEST": "1", "JUPYTER_PREFER_ENV_PATH": "1", "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    del env["PYTHONPATH"]

    def use(*command): return subprocess.run([str(c) for c in command], cwd=folder, env=env, capture_output=True, text=True)

    for course in ("solved", "stubs"):
        done = use(python.parent/"eqbook", "start", course)
        if done.returncode: return (yield verdict("learners: `eqbook start`", [done.stderr or done.stdout]))

    def one(job):
        path, kind = job
        start = time.perf_counter()
        done = use(python, "-c", RUN, path, kind, LIMIT)
        faults = [done.stderr[-3000:]] if done.returncode else {"solved": faults_solved, "stubs": faults_stubs}[kind](json.loads(done.stdout.splitlines()[-1]))
        name = f"learner's {path.name}, {'solutions put back: every check is green' if kind == 'solved' else 'as handed out: stops at the first exercise'}"
        return verdict(f"{name} ({time.perf_counter() - start:.0f} s)", faults)

    jobs = [(path, kind) for kind in ("solved", "stubs") for path in sorted((folder/kind).glob("[0-9]*.ipynb"), key=lambda p: -p.stat().st_size)]
    with ThreadPoolExecutor(WORKERS) as pool: yield from pool.map(one, jobs)

    total = len(json.loads((Path(tree)/"eqbook"/"exercises_nb"/"exercises.json").read_text()))
    shown = use(python.parent/"eqbook", "progress", "solved").stdout
    yield verdict("`eqbook progress` counts every exercise", [] if f"{total}/{total}" in shown.replace(" ", "").replace("of", "/") else [shown])
    smallest = min((folder/"solved").glob("[0-9]*.ipynb"), key=lambda p: p.stat().st_size)
    done = use(python, "-c", "from nbclient.cli import main; main()", "stubs/" + smallest.name)
    yield verdict("`jupyter execute` of an unsolved notebook fails", [] if done.returncode and "is not solved yet" in done.stderr else [done.stderr[-2000:]])
