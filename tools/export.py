"Notebooks -> eqbook/, the learners' notebooks and README.md."
import configparser
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

from tools.common import root, text

HIDDEN = re.compile(r"#\|\s*(hide|export|exporti|default_exp|include:\s*false)\b")
SILENT = re.compile(r"^#\|\s*echo:\s*false\b", re.MULTILINE)
OPTION = re.compile(r"^#\|.*\n?", re.MULTILINE)


def plain(markdown):
    "Quarto's markdown as GitHub reads it; links start at the repository's root."
    markdown = re.sub(r"^- \S+:.*\n?", "", markdown, flags=re.M) if markdown.startswith("# ") else markdown
    markdown = re.sub(r"^:::.*\n?", "", markdown, flags=re.M)
    markdown = re.sub(r"[ \t]*(?<!`)\{[#.][^}\n]*\}", "", markdown)
    markdown = re.sub(r"(\]\([^)\s]+\))\{[^}\n]*\}", r"\1", markdown)
    markdown = re.sub(r"\s*\[@[^\]]*\]", "", markdown)
    markdown = re.sub(r"(\]\()(?![a-z]+:|#|/|\.\./)([^)\s]+)\)", r"\1nbs/\2)", markdown)
    return re.sub(r"(\]\()\.\./([^)\s]+)\)", r"\1\2)", markdown)


def readme(tree):
    "README.md's text, from nbs/index.ipynb: prose, code and printed text; its pictures are files in nbs/images."
    nb = nbformat.read(tree/"nbs"/"index.ipynb", 4)
    nb.metadata["language_info"] = {"name": "python"}  # nbdev_clean removes it, the exporter colours code by it
    nb.cells = [c for c in nb.cells if c.cell_type == "markdown" or (c.cell_type == "code" and not HIDDEN.match(c.source))]
    for cell in nb.cells:
        if cell.cell_type == "markdown": cell.source = plain(cell.source)
        else:
            cell.source = "" if SILENT.search(cell.source) else OPTION.sub("", cell.source)
            cell.outputs = [o for o in cell.outputs if not o.get("name") == "stderr"]
            if any(kind.startswith("image/") for o in cell.outputs for kind in o.get("data", {})):
                raise ValueError("nbs/index.ipynb draws a figure; README.md needs it as a file in nbs/images")
    body, _ = MarkdownExporter().from_notebook_node(nb)
    body = body.replace("```python\n\n```\n", "")
    return re.sub(r"\n{3,}", "\n\n", f"<!-- Made from nbs/index.ipynb by `make export`; edit that. -->\n\n{text(body).strip()}\n")


def addresses(tree):
    "Where the book and its repository are, from settings.ini."
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(tree/"settings.ini", encoding="utf-8")
    cfg = parser["DEFAULT"]
    return dict(repo=cfg["git_url"].removeprefix("https://github.com/"), branch=cfg["branch"], site=cfg["doc_host"] + cfg["doc_baseurl"])


def export(tree):
    "Write the package (run in `tree`), the learners' notebooks and README.md."
    from nbdev.doclinks import nbdev_export
    nbdev_export.__wrapped__()
    from eqbook.learner import generate  # as exported a moment ago
    generate(tree/"nbs", tree/"results", tree/"eqbook"/"exercises_nb", addresses(tree))
    if (tree/"nbs"/"index.ipynb").exists(): (tree/"README.md").write_text(readme(tree), encoding="utf-8")


if __name__ == "__main__":
    here = Path.cwd()
    if not (here/"settings.ini").exists(): sys.exit(f"run this from the repository's root, {root.name}/, where settings.ini is")
    export(here)
