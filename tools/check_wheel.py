"The wheel, installed into a fresh environment and used outside the repository."
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

from tools.common import Result, environment, verdict

IMPORT_LIMIT = 0.05  # seconds for `import eqbook`

TIMED = "import time, sys; t = time.perf_counter(); import eqbook; print(time.perf_counter() - t); assert 'torch' not in sys.modules, 'torch'"

MODULES = """
import importlib, pkgutil, sys, eqbook
for m in pkgutil.walk_packages(eqbook.__path__, "eqbook."):
    if not m.name.endswith(("_modidx", "__main__")): importlib.import_module(m.name)
found = {"nbdev", "fastcore", "execnb", "IPython"} & set(sys.modules)
assert not found, f"imported at run time: {sorted(found)}"
assert REPOSITORY not in eqbook.__file__, eqbook.__file__
"""

DATA = """
from eqbook.datasets import water
frames = water.load_water()
assert len(frames) > 100 and "energy" in frames[0].info, len(frames)
"""


def build(tree, folder):
    "Build the wheel of `tree` into `folder`; its path and pip's words."
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder), str(tree)],
                          capture_output=True, text=True)
    return next(Path(folder).glob("*.whl"), None), done.stderr


def missing_data(tree, wheel):
    "Data files of the package that the wheel lacks."
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = [p.relative_to(tree).as_posix() for p in (tree/"eqbook").rglob("*") if p.is_file() and p.suffix not in (".pyc",)]
    return [f"{w} is not in the wheel: name it in setup.py's package_data" for w in wanted if w not in held]


def fresh_environment(folder, wheel):
    "Python of a new environment that has the wheel, and this one's other packages."
    venv.create(folder, with_pip=False)
    python = Path(folder)/"bin"/"python"
    site = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True).stdout.strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)], check=True)
    return python


def check(tree, folder):
    "Results of building, installing and using the wheel of `tree`, all inside `folder`."
    folder = Path(folder)
    wheel, words = build(tree, folder/"dist")
    yield verdict("wheel builds and holds the package's data", missing_data(tree, wheel) if wheel else [words])
    if not wheel: return
    python, env = fresh_environment(folder/"fresh", wheel), environment("")
    del env["PYTHONPATH"]

    def use(*command):
        done = subprocess.run([str(c) for c in command], cwd=folder, env=env, capture_output=True, text=True)
        return done.stdout, [done.stderr[-2000:] or f"exit code {done.returncode}"] if done.returncode else []

    runs = [use(python, "-c", TIMED) for _ in range(7)]
    faults = next((f for _, f in runs if f), [])
    if not faults:
        seconds = sorted(float(out) for out, _ in runs)[len(runs) // 2]
        faults = [f"`import eqbook` takes {1000 * seconds:.0f} ms"] if seconds > IMPORT_LIMIT else []
    yield verdict("`import eqbook` is quick and leaves torch alone", faults)
    yield verdict("every module imports without nbdev or fastcore", use(python, "-c", MODULES.replace("REPOSITORY", repr(str(tree))))[1])
    for name, needs, command in [("`eqbook --help`", "eqbook/cli.py", [python.parent/"eqbook", "--help"]),
                                 ("embedded data load", "eqbook/datasets/water.py", [python, "-c", DATA])]:
        if (tree/needs).exists(): yield verdict(f"wheel: {name}", use(*command)[1])
        else: yield Result(f"wheel: {name}", "skipped", f"{needs} does not exist yet")
