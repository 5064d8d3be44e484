"Processors that nbdev runs, after its own, on every notebook that becomes a page (settings.ini: procs)."
import re
from pathlib import Path

from execnb.nbio import mk_cell, read_nb
from nbdev.config import get_config
from nbdev.frontmatter import _dict2fm, _fm2dict
from nbdev.process import Processor

from eqbook.exercises import stub
from eqbook.learner import code_of


def beside_title(nb):
    "The text of the title's cell that is neither title, description nor a `- key: value` line for the page."
    title = next(c.source for c in read_nb(nb.path_).cells if c.cell_type == "markdown" and re.search(r"^# ", c.source, re.M))
    text = re.sub(r"^(# .*|- [\w-]+:.*)\n?", "", title, flags=re.M)
    return re.sub(r"^> .*\n?", "", text, count=1, flags=re.M).strip()


class plain_pages(Processor):
    """Pages keep their notebook's name, so that links between notebooks hold on the site, too.
    The title's cell keeps its text, which nbdev would drop."""
    def begin(self):
        cell = next((c for c in self.nb.cells if c.cell_type == "raw"), None)
        if cell is None: return
        front = _fm2dict(cell.source)
        front.pop("output-file", None)
        cell.source = _dict2fm(front)
        if lost := beside_title(self.nb): self.nb.cells.insert(1, mk_cell(lost, "markdown"))


def folded(source):
    "The solution under a fold; its own fold options give way."
    lines = source.splitlines()
    kept = [line for line in lines if not line.startswith(("#| code-fold:", "#| code-summary:"))]
    return "\n".join(['#| code-fold: true', '#| code-summary: "Solution"', *kept])


def learners_links(stem):
    "Where the chapter's exercises are, as a notebook without answers."
    cfg = get_config()
    path = f"{cfg.git_url.removeprefix('https://github.com/')}/blob/{cfg.branch}/eqbook/exercises_nb/{stem}.ipynb"
    return (f"The exercises of this chapter as a notebook: [open in Colab](https://colab.research.google.com/github/{path}), "
            f"[on GitHub](https://github.com/{path}), or `eqbook start my-course`.")


class exercise(Processor):
    "An exercise shows what the learner receives, then the solution under a fold. A chapter with exercises says where the learner's notebook is."
    def begin(self):
        cells = []
        for cell in self.nb.cells:
            if cell.cell_type == "code" and "exercise" in cell.directives_:
                (exercise_id,) = cell.directives_["exercise"]
                learner = mk_cell(stub(code_of(cell.source), exercise_id))
                learner.directives_, cell.source = {}, folded(cell.source)
                cells.append(learner)
            cells.append(cell)
        if len(cells) > len(self.nb.cells):
            first = next(i for i, cell in enumerate(cells) if cell.cell_type == "markdown")
            cells.insert(first, mk_cell(learners_links(Path(self.nb.path_).stem), "markdown"))
        self.nb.cells = cells
