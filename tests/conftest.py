"Small books and cells to plant faults in."
import nbformat.v4 as nbf
import pytest

PNG = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==")
FIGURE = '#| label: fig-one\n#| fig-cap: "A dot"\n#| fig-alt: "One dot."\nplt.show()'


def image(data=PNG):
    "A stored figure."
    return nbf.new_output("display_data", {"image/png": data, "text/plain": "<Figure size 640x480 with 1 Axes>"})


def page_of(*cells, title="A page"):
    "A processed notebook: front matter, then markdown (text) or code (source, outputs)."
    made = [nbf.new_markdown_cell(c) if isinstance(c, str) else nbf.new_code_cell(c[0], outputs=list(c[1])) for c in cells]
    return nbf.new_notebook(cells=[nbf.new_raw_cell(f"---\ntitle: {title}\n---"), *made])


@pytest.fixture
def good():
    "A page without a fault: every kind of label and reference, a figure, citations, and `@` where it is no citation."
    return page_of("## Start {#sec-start}\n\nSee @eq-one, @fig-one, @tbl-one, @sec-start and [@known2020].",
                   "$$\na = b\n$$ {#eq-one}",
                   "| a |\n|---|\n| 1 |\n\n: Numbers {#tbl-one}",
                   "Mail a@b.org, `@code` and [a section](#sec-start), [a page](other.ipynb#sec-other), [the web](https://a.org/@x).",
                   ("@decorator\ndef f(): 'see @fig-none'", []),
                   (FIGURE, [image()]))


@pytest.fixture
def other(): return page_of("## Other {#sec-other}", title="Other")


@pytest.fixture
def bib(): return "@article{known2020, title={T}, author={A, B}, year={2020}, doi={10.1000/x}}\n"
