"Where things are, and a snapshot of the tree to work on."
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

root = Path(__file__).resolve().parent.parent
generated = shutil.ignore_patterns(".git", ".venv", "_proc", "_docs", "_site", "build", "dist", "*.egg-info", "__pycache__", ".*_cache",
                                   ".ipynb_checkpoints", ".quarto", "*.tmp", "eqbook-demo")

MACHINE_PATH = re.compile(r"(?<![\w./:])/(?:home|root|Users|tmp|mnt|opt|var/folders)/\w|/site-packages/")


class Result(NamedTuple):
    "One line of the report."
    name: str
    status: str  # "passed", "failed" or "skipped"
    detail: str = ""


def verdict(name, faults):
    "One result from a list of faults."
    return Result(name, "failed" if faults else "passed", "\n".join(faults))


def snapshot(folder):
    "A copy of the working tree, without what is generated, in which checks may write."
    return Path(shutil.copytree(root, Path(folder)/"eqbook", symlinks=True, ignore=generated))


def environment(tree):
    "Environment for a process that must use the package in `tree`, on one core and without a display."
    return {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def notebooks(tree):
    "The notebooks of the book, sorted by path."
    return sorted(p for p in (tree/"nbs").rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(tree).parts))


def text(parts):
    "A notebook stores text as a string or as a list of lines."
    return parts if isinstance(parts, str) else "".join(parts)


def shows_machine(output):
    "Does a stored output tell where one machine keeps things?"
    return bool(MACHINE_PATH.search(output)) or str(root) in output
