"""Run a notebook by nbdev's rules and compare what comes out with what is stored.

`python -m tools.fresh NOTEBOOK [--slow]` prints a JSON list of faults. Text must agree word for word, numbers up to their last digits."""
import json
import os
import re
import sys
from pathlib import Path

from eqbook.datasets.core import have
from tools.common import text

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
ROUNDOFF = 1e-5  # printed with an exponent, below this: only the order of magnitude can be asked for


def last_digit(number):
    "The value of one unit in a printed number's last place."
    mantissa, _, exponent = number.lower().partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def same_number(old, new):
    "Equal up to 0.1 % or one unit of the last digit; roundoff errors up to a factor of ten."
    a, b = float(old), float(new)
    if "e" in (old + new).lower() and max(abs(a), abs(b)) < ROUNDOFF:
        return max(abs(a), abs(b)) < 1e-12 or (a * b > 0 and 0.1 <= a / b <= 10)
    if re.fullmatch(r"[-+]?\d+", old) and re.fullmatch(r"[-+]?\d+", new): return abs(a - b) <= 1e-3 * abs(a)
    return abs(a - b) <= max(1e-3 * abs(a), 1.001 * last_digit(old))


def same_text(old, new):
    "Do two outputs say the same?"
    words = [" ".join(NUMBER.sub(" # ", o).split()) for o in (old, new)]
    numbers = [NUMBER.findall(o) for o in (old, new)]
    return words[0] == words[1] and all(map(same_number, *numbers))


def shown(outputs):
    "What a reader sees of a cell: printed text, displayed texts, number of figures. Progress bars and warnings do not count."
    printed, displayed, figures = "", [], 0
    for out in outputs:
        if out["output_type"] == "stream": printed += text(out["text"]) if out["name"] == "stdout" else ""
        elif out["output_type"] != "error":
            data = out["data"]
            if any(kind.startswith("image/") for kind in data): figures += 1
            else: displayed.append(text(data.get("text/markdown") or data.get("text/plain", "")))
    return [printed, *displayed], figures


def compare(stored, fresh):
    "Why a cell's stored outputs are not what it gives today, or None."
    (old, old_figures), (new, new_figures) = shown(stored), shown(fresh)
    if old_figures != new_figures: return f"stores {old_figures} figure(s), draws {new_figures}"
    if len(old) != len(new): return f"stores {len(old) - 1} displayed value(s), gives {len(new) - 1}"
    for a, b in zip(old, new):
        if not same_text(a, b): return f"stored output is stale\n    stored: {a.strip()[:400]}\n    now:    {b.strip()[:400]}"


def comparable(flags):
    "Are the cell's outputs compared? Not if they vary, nor if they show a public file (`#| public NAME`) that is not at hand."
    return not {"volatile", "slow"} & flags.keys() and all(have(name) for name in flags.get("public", []))


def run(path, slow=False):
    "Faults of a notebook: an error stops it, a stale output does not."
    from execnb.shell import CaptureShell, format_exc
    from nbdev.clean import _clean_cell_output
    from nbdev.config import get_config
    from nbdev.process import NBProcessor

    os.environ["IN_TEST"] = "1"
    os.chdir(path.parent)
    skipped = set(get_config().tst_flags.split()) - ({"slow"} if slow else set())
    shell, faults = CaptureShell(path), []
    for cell in NBProcessor(path).nb.cells:
        if cell.cell_type != "code" or "nbdev_export" + "(" in cell.source: continue
        flags = cell.directives_
        if skipped & flags.keys() or flags.get("eval:", [""])[0].lower() == "false": continue
        where, stored = f"cell {cell.idx_} ({(cell.source.strip().splitlines() or ['empty'])[-1][:60]})", cell.get("outputs", [])
        fresh = dict(outputs=shell.run(cell.source))
        if shell.exc: return faults + [f"{where}: stops\n{''.join(format_exc(shell.exc))}"]
        _clean_cell_output(fresh, clean_ids=True)
        if comparable(flags) and (why := compare(stored, fresh["outputs"])): faults.append(f"{where}: {why}")
    return faults


if __name__ == "__main__":
    found = run(Path(sys.argv[1]).resolve(), slow="--slow" in sys.argv)
    print("\n" + json.dumps(found))
