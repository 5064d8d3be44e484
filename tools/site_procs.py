"Processors that nbdev runs, after its own, on every notebook that becomes a page (settings.ini: procs)."
from execnb.nbio import mk_cell
from nbdev.frontmatter import _dict2fm, _fm2dict
from nbdev.process import Processor

from eqbook.exercises import stub


class plain_pages(Processor):
    "Pages keep their notebook's name, so that links between notebooks hold on the site, too."
    def begin(self):
        cell = next((c for c in self.nb.cells if c.cell_type == "raw"), None)
        if cell is None: return
        front = _fm2dict(cell.source)
        front.pop("output-file", None)
        cell.source = _dict2fm(front)


def folded(source):
    "The solution under a fold; its own fold options give way."
    lines = source.splitlines()
    kept = [line for line in lines if not line.startswith(("#| code-fold:", "#| code-summary:"))]
    return "\n".join(['#| code-fold: true', '#| code-summary: "Solution"', *kept])


def code_of(source):
    "A cell without its leading `#|` lines."
    lines = source.splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#|")), len(lines))
    return "\n".join(lines[start:])


class exercise(Processor):
    "An exercise shows what the learner receives, then the solution under a fold."
    def begin(self):
        cells = []
        for cell in self.nb.cells:
            if cell.cell_type == "code" and "exercise" in cell.directives_:
                (exercise_id,) = cell.directives_["exercise"]
                learner = mk_cell(stub(code_of(cell.source), exercise_id))
                learner.directives_, cell.source = {}, folded(cell.source)
                cells.append(learner)
            cells.append(cell)
        self.nb.cells = cells
