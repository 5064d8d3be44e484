"The site check finds planted faults and lets a good book pass."
import base64
import json

import nbformat
import nbformat.v4 as nbf
import pytest
from conftest import FIGURE, PNG, image, page_of

from tools import check_site
from tools.common import root


def faults(bib, files=None, **pages):
    "Faults of a book with these pages."
    return check_site.check_pages([check_site.read_page(f"{name}.ipynb", nb) for name, nb in pages.items()], bib, files or {})[0]


def test_a_good_book_passes(good, other, bib): assert faults(bib, page=good, other=other) == []


def test_unused_reference_is_named(other, bib):
    assert check_site.check_pages([check_site.read_page("other.ipynb", other)], bib, {})[1] == ["known2020"]


@pytest.mark.parametrize("cell, words", [
    ("## Again {#sec-other}", "label sec-other stands 2 times"),
    ("See @eq-none.", "@eq-none has no label"),
    ("See @fig-none.", "@fig-none has no label"),
    ("As shown by @nobody2020.", "@nobody2020 is not in references.bib"),
    ("[x](missing.ipynb)", "link leads nowhere: missing.ipynb"),
    ("[x](other.ipynb#sec-none)", "missing anchor: other.ipynb#sec-none"),
    ("[x](#sec-none)", "missing anchor: #sec-none"),
    ("<a href='missing.html'>x</a>", "link leads nowhere: missing.html"),
    ("![](images/a.png)", "image images/a.png: no alt text"),
    ("![a dot](images/none.png)", "image images/none.png does not exist"),
    ("![a dot](images/big.png)", "image images/big.png: 200 kB"),
    ("<img src='images/a.png'>", "no alt text"),
    ("# Another title", "second title on the page: # Another title"),
    ("Text {#eq-far}", "label eq-far must follow its $$...$$ directly"),
    ("$\\frac{1}{$", "pandoc: "),
    ("::: {.note}\nnever closed", "pandoc: "),
    ((FIGURE.replace("label", "lable"), [image()]), "give it `#| label: fig-...`"),
    ((FIGURE.replace("one", "two").replace("fig-alt", "alt"), [image()]), "figure fig-two: no alt text"),
    ((FIGURE.replace("one", "two").replace("fig-cap", "cap"), [image()]), "figure fig-two: no caption"),
    ((FIGURE.replace("one", "two"), []), "figure fig-two: no figure is stored"),
    ((FIGURE.replace("one", "two"), [image(), image()]), "2 images in one cell"),
    ((FIGURE.replace("one", "two"), [image(base64.b64encode(bytes(160_000)).decode())]), "image of 160 kB"),
    (("#| echo: true\n#| echo: false\nx", []), "cell option given twice: echo"),
    (("#| fig-cap: a: b\nx", []), "not YAML"),
    (("f", [dict(output_type="error", ename="ValueError", evalue="x", traceback=[])]), "stores an error: ValueError"),
    (("f", [dict(output_type="stream", name="stderr", text="a warning")]), "stores a warning"),
    (("f", [dict(output_type="stream", name="stdout", text="saved in /opt/someone/x")]), "path of one machine"),
    (("f", [dict(output_type="display_data", metadata={}, data={"text/plain": "Text(0.5, 0, 'x')"})]), "the page would show"),
])
def test_a_planted_fault_is_found(cell, words, good, other, bib):
    good["cells"] += page_of(cell)["cells"][1:]
    found = faults(bib, {"images/a.png": 100, "images/big.png": 200_000}, page=good, other=other)
    assert len(found) == 1 and words in found[0], found


def test_a_heavy_page_is_found(monkeypatch, other, bib):
    assert faults(bib, other=other) == []
    monkeypatch.setattr(check_site, "MAX_PAGE", 10)
    assert "page of 0.0 MB, the limit is" in faults(bib, other=other)[0]


def test_label_on_the_title(bib): assert "label on the chapter's title" in faults(bib, page=page_of(title='"A {#sec-a}"'))[0]


def test_bibliography_faults(bib):
    found = faults(bib + bib + "@article{bare2020, title={T}}\n", page=page_of("x"))
    assert any("known2020 stands twice" in f for f in found) and any("bare2020 has neither DOI nor URL" in f for f in found)


def test_chapters():
    quarto = dict(book=dict(chapters=["index.ipynb", dict(part="Models", chapters=["a.ipynb", "gone.ipynb"])], appendices=["api.ipynb"]))
    assert check_site.chapters(quarto) == ["index.ipynb", "a.ipynb", "gone.ipynb", "api.ipynb"]
    found = check_site.check_chapters(quarto, ["index.ipynb", "a.ipynb", "api.ipynb", "lost.ipynb"])
    assert found == ["_quarto.yml lists gone.ipynb, which does not exist", "lost.ipynb is not in _quarto.yml"]


EXERCISE = '#| exports\n#| exercise ex_1_1\ndef twice(x):\n    "Two x."\n    # 1. add\n    return x + x'


@pytest.fixture
def tree(tmp_path):
    "A book of one chapter with one exercise."
    nbs = tmp_path/"nbs"
    nbs.mkdir()
    settings = (root/"settings.ini").read_text()
    (tmp_path/"settings.ini").write_text(settings)
    (nbs/"_quarto.yml").write_text("book:\n  chapters: [01_a.ipynb]\n")
    (nbs/"references.bib").write_text("")
    code = ["#| default_exp a", EXERCISE, "#| slow\n#| volatile\n" + FIGURE, "#| hide\nsecret = 1"]
    cells = [nbf.new_markdown_cell("# A\n\n> What it is.\n- number-sections: false\n\nMore words."), *map(nbf.new_code_cell, code)]
    cells[3]["outputs"] = [image(PNG)]
    nbformat.write(nbf.new_notebook(cells=cells), nbs/"01_a.ipynb")
    return tmp_path


def test_processed_pages(tree):
    assert check_site.check(tree) == ([], [])
    cells = json.loads((tree/"_proc"/"01_a.ipynb").read_text())["cells"]
    sources = ["".join(c["source"]) for c in cells]
    assert "title: A" in sources[0] and "number-sections: false" in sources[0] and "output-file" not in sources[0]
    assert "[open in Colab](https://colab.research.google.com/github/eqbook/eqbook/blob/main/eqbook/exercises_nb/01_a.ipynb)" in sources[1]
    assert sources[2] == "More words."
    code = [s for s, c in zip(sources, cells) if c["cell_type"] == "code"]
    assert code[0] == 'def twice(x):\n    "Two x."\n    # 1. add\n    raise NotImplementedError("ex_1_1: your turn")'
    assert code[1].startswith('#| code-fold: true\n#| code-summary: "Solution"\ndef twice(x):') and "return x + x" in code[1]
    assert code[2] == FIGURE and len(code) == 3
