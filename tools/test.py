"""Prove the repository: `make test`. Every check works on a snapshot of the tree; the last line reads `N passed, N failed`.

`python -m tools.test [--slow] [CHECK ...]` runs all checks or those named."""
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools import check_learners, check_site, check_wheel
from tools.common import Result, environment, notebooks, snapshot, verdict

WORKERS = min(2, os.cpu_count() or 1)
LIMIT = 900  # seconds for one notebook
SLOW = "--slow" in sys.argv
if SLOW: os.environ["EQBOOK_SLOW"] = "1" # tests/ ask for it


def run(tree, *command, **kwargs):
    "Run a command in `tree` with its package."
    return subprocess.run(command, cwd=tree, env=environment(tree), capture_output=True, text=True, **kwargs)


def complaint(done):
    "A failed command's last words."
    return [(done.stdout + done.stderr)[-3000:].strip() or f"exit code {done.returncode}"] if done.returncode else []


def differing(before, after, *parts):
    "Files below `parts` that two trees do not share word for word."
    files = {p.relative_to(tree) for tree in (before, after) for part in parts for p in [tree/part, *(tree/part).rglob("*")]
             if p.is_file() and "__pycache__" not in p.parts}
    return sorted(str(f) for f in files if not ((before/f).exists() and (after/f).exists() and filecmp.cmp(before/f, after/f, shallow=False)))


def check_sync(tree, folder):
    "Exporting changes nothing."
    copy = Path(shutil.copytree(tree, folder/"exported", symlinks=True))
    faults = complaint(run(copy, sys.executable, "-m", "tools.export"))
    yield verdict("package and README.md are what the notebooks export",
                  faults or [f"{f} differs: run `make export`" for f in differing(tree, copy, "eqbook", "README.md", "pyproject.toml")])


def check_clean(tree, folder):
    "Cleaning changes nothing; outputs are kept."
    copy = Path(shutil.copytree(tree, folder/"cleaned", symlinks=True))
    faults = complaint(run(copy, "nbdev_clean"))
    yield verdict("notebooks are clean", faults or [f"{f} differs: run `nbdev_clean`" for f in differing(tree, copy, "nbs")])


def check_pages(tree, folder):
    "The site's sources hold."
    faults, unused = check_site.check(Path(shutil.copytree(tree, folder/"site", symlinks=True)))
    if unused: print(f"     not cited: {', '.join(unused)}")
    yield verdict("the site's sources hold", faults)


def check_ruff(tree, folder):
    "No complaint from ruff."
    yield verdict("ruff", complaint(run(tree, "ruff", "check", "--no-cache", "--quiet", "--output-format=concise", "eqbook", "tools", "tests", "setup.py")))


def check_installed(tree, folder):
    "The wheel works outside the repository."
    yield from check_wheel.check(Path(shutil.copytree(tree, folder/"source", symlinks=True)), folder)


def check_path(tree, folder):
    "A learner's notebooks run, with the wheel alone."
    yield from check_learners.check(Path(shutil.copytree(tree, folder/"source", symlinks=True)), folder)


def check_notebooks(tree, folder):
    "Every notebook runs and stores what it gives today."
    def one(path):
        start = time.perf_counter()
        try: done = run(tree, sys.executable, "-m", "tools.fresh", str(path), *["--slow"] * SLOW, timeout=None if SLOW else LIMIT)
        except subprocess.TimeoutExpired: faults = [f"still running after {LIMIT} s"]
        else: faults = complaint(done) or json.loads(done.stdout.splitlines()[-1])
        return verdict(f"{path.relative_to(tree)} runs, outputs are fresh ({time.perf_counter() - start:.0f} s)", faults)

    by_size = sorted(notebooks(tree), key=lambda p: -p.stat().st_size)
    with ThreadPoolExecutor(WORKERS) as pool: yield from pool.map(one, by_size)


def check_pytest(tree, folder):
    "The tests in tests/."
    report = folder/"pytest.xml"
    done = run(tree, sys.executable, "-m", "pytest", f"--junitxml={report}", "tests")
    if not report.exists(): return (yield verdict("pytest", complaint(done)))
    for case in ET.parse(report).iter("testcase"):
        bad, skip = [c for c in case if c.tag in ("failure", "error")], case.find("skipped")
        name = f"{case.get('classname')}::{case.get('name')}"
        yield Result(name, "skipped", skip.get("message", "")) if skip is not None else verdict(name, [c.text or "" for c in bad])


CHECKS = {"sync": check_sync, "clean": check_clean, "site": check_pages, "ruff": check_ruff, "wheel": check_installed, "pytest": check_pytest,
          "notebooks": check_notebooks, "learners": check_path}
SIGNS = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}


def main(names):
    "Run the checks, print their results, and count."
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C, and so would the processes that are tested
    counts = Counter()
    with tempfile.TemporaryDirectory(prefix="eqbook-test-") as folder:
        tree = snapshot(folder)
        for name in names or CHECKS:
            start = time.perf_counter()
            (work := Path(folder)/name).mkdir()
            try:
                for result in CHECKS[name](tree, work):
                    counts[result.status] += 1
                    if result.status == "passed" and "::" in result.name: continue  # a hundred small tests: tell what needs telling
                    print(f"{SIGNS[result.status]} {result.name}", *(["\n     " + result.detail.replace("\n", "\n     ")] if result.detail else []), flush=True)
            except Exception as e:  # a check that cannot run has failed; the others still tell
                counts["failed"] += 1
                print(f"FAIL {name}\n     {type(e).__name__}: {e}", flush=True)
            print(f"     -- {name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{counts['passed']} passed, {counts['failed']} failed" + (f", {counts['skipped']} skipped" if counts["skipped"] else ""))
    return counts["failed"]


if __name__ == "__main__":
    sys.exit(bool(main([a for a in sys.argv[1:] if a != "--slow"])))
