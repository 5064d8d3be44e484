"""Run notebooks top to bottom in a real Jupyter kernel, slow cells included, and store their outputs.

`python -m tools.execute [NOTEBOOK ...]`. A notebook that fails is left as it was."""
import json
import os
import sys
import time
from pathlib import Path

import nbformat
from execnb.nbio import write_nb
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import clean_nb

from tools.check_site import MAX_IMAGE
from tools.common import environment, notebooks, root, shows_machine, text


class Client(NotebookClient):
    "Leaves out cells that export the package and cells marked `#| eval: false`."
    async def async_execute_cell(self, cell, *args, **kwargs):
        options = [line.replace(" ", "") for line in cell.source.splitlines() if line.startswith("#|")]
        if "nbdev_export" + "(" in cell.source or "#|eval:false" in options: return cell
        return await super().async_execute_cell(cell, *args, **kwargs)


def leaks(nb):
    "Stored outputs that show where this machine keeps things, and images too big for a page."
    for i, cell in enumerate(nb.cells):
        for out in cell.get("outputs", []):
            data = out.get("data") or {"text/plain": out.get("text", "")}
            for kind, value in data.items():
                if kind.startswith("text/") and shows_machine(text(value)):
                    yield f"cell {i} stores a path of this machine: {text(value).strip()[:120]}"
                if kind == "image/png" and len(value) * 3 / 4 > MAX_IMAGE: yield f"cell {i} stores a PNG over {MAX_IMAGE // 1000} kB"


def execute(path):
    "Run one notebook, then replace its file in one step."
    nb = nbformat.read(path, 4)
    Client(nb, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    if faults := list(leaks(nb)): raise ValueError("; ".join(faults))
    stored = json.loads(nbformat.writes(nb))
    clean_nb(stored)
    beside = path.with_suffix(".ipynb.tmp")
    write_nb(stored, beside)
    os.replace(beside, path)


def main(paths):
    "Run all notebooks given; number of those that failed."
    os.environ.update({k: v for k, v in environment(root).items() if k in ("PYTHONPATH", "PATH")}, JUPYTER_PREFER_ENV_PATH="1")
    failed = 0
    for i, path in enumerate(paths, 1):
        print(f"[{i}/{len(paths)}] {path.name} ", end="", flush=True)
        start = time.perf_counter()
        try:
            execute(path)
            print(f"{time.perf_counter() - start:.0f} s", flush=True)
        except (CellExecutionError, ValueError, OSError) as e:
            failed += 1
            print(f"failed after {time.perf_counter() - start:.0f} s, file left as it was\n{e}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(bool(main([Path(p).resolve() for p in sys.argv[1:]] or notebooks(root))))
