"Files that repeat a fact agree, and the package is light."
import configparser
import json
import subprocess
import sys

import nbformat
import nbformat.v4 as nbf
import pytest
import yaml

from tools import execute, export
from tools.common import environment, root

settings = configparser.ConfigParser(delimiters=["="])
settings.read(root/"settings.ini")
cfg = settings["DEFAULT"]
quarto = yaml.safe_load((root/"_quarto.yml").read_text())["book"]


def test_version_is_one():
    assert yaml.safe_load((root/"CITATION.cff").read_text())["version"] == cfg["version"]
    assert f'__version__ = "{cfg["version"]}"' in (root/"eqbook"/"__init__.py").read_text()


def test_addresses_agree():
    cff = yaml.safe_load((root/"CITATION.cff").read_text())
    site = cfg["doc_host"] + cfg["doc_baseurl"]
    assert quarto["repo-url"] == cfg["git_url"] == cff["repository-code"] and quarto["site-url"] == site == cff["url"]


def test_quarto_file_is_one(): assert (root/"nbs"/"_quarto.yml").read_text() == (root/"_quarto.yml").read_text()


def test_constraints_are_neutral_and_cover_the_requirements():
    lines = [line for line in (root/"constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line and "+" not in line and "file:" not in line and "@" not in line for line in lines)
    names = {line.partition("==")[0] for line in lines}
    wanted = {r.partition(">")[0].partition("<")[0].partition("=")[0].replace("_", "-").lower() for r in (cfg["requirements"] + " " + cfg["extra_dev"]).split()}
    assert wanted - names <= {"setuptools"}


def test_import_is_light():
    code = "import sys, eqbook; bad = {'torch', 'numpy', 'nbdev', 'fastcore'} & set(sys.modules); assert not bad, bad"
    done = subprocess.run([sys.executable, "-c", code], env=environment(root), cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("quarto_text, github", [
    ("# T\n\n> d\n- number-sections: false\n", "# T\n\n> d\n"), ("## A {#sec-a}", "## A"), ("Known [@a2020; @b2021].", "Known."),
    ("::: {.callout-note}\nText\n:::\n", "Text\n"), ("![x](images/a.svg){fig-alt=\"y\"}", "![x](nbs/images/a.svg)"),
    ("[b](01_graphs.ipynb#sec-a) [c](https://a.org) [d](../LICENSE) [e](#f)", "[b](nbs/01_graphs.ipynb#sec-a) [c](https://a.org) [d](LICENSE) [e](#f)"),
    ("`{#sec-a}` stays a set", "`{#sec-a}` stays a set")])
def test_readme_markdown(quarto_text, github): assert export.plain(quarto_text) == github


def test_readme_is_made_from_the_preface(tmp_path):
    (tmp_path/"nbs").mkdir()
    made = [nbf.new_markdown_cell("# T\n\n> d\n- number-sections: false"), nbf.new_code_cell("#| hide\nsecret"),
            nbf.new_code_cell("#| code-fold: true\nprint(1)", outputs=[nbf.new_output("stream", name="stdout", text="1\n")])]
    nbformat.write(nbf.new_notebook(cells=made), tmp_path/"nbs"/"index.ipynb")
    text = export.readme(tmp_path)
    assert "# T\n\n> d\n\n```python\nprint(1)\n```\n\n    1\n" in text and "secret" not in text
    made[2].outputs = [nbf.new_output("display_data", {"image/png": ""})]
    nbformat.write(nbf.new_notebook(cells=made), tmp_path/"nbs"/"index.ipynb")
    with pytest.raises(ValueError, match="needs it as a file in nbs/images"): export.readme(tmp_path)


def test_readme_holds_no_quarto():
    text = (root/"README.md").read_text()
    assert not any(mark in text for mark in ("{#", ":::", "[@", "@sec-", "@fig-", "@eq-", "#|"))


def cells(path, *sources):
    nb = nbf.new_notebook(cells=[nbf.new_code_cell(s) for s in sources])
    nb.metadata["kernelspec"] = dict(display_name="python3", language="python", name="python3")
    nbformat.write(nb, path)
    return path


def test_execute_stores_outputs_or_leaves_the_file(tmp_path, capsys):
    good = cells(tmp_path/"good.ipynb", "print(6 * 7)", "#| eval: false\n1 / 0")
    bad = cells(tmp_path/"bad.ipynb", "print(1)", "1 / 0")
    leak = cells(tmp_path/"leak.ipynb", "print('/home' + '/someone')")
    before = bad.read_bytes(), leak.read_bytes()
    assert execute.main([good, bad, leak]) == 2
    assert json.loads(good.read_text())["cells"][0]["outputs"][0]["text"] == ["42\n"]
    assert (bad.read_bytes(), leak.read_bytes()) == before and not list(tmp_path.glob("*.tmp"))
    report = capsys.readouterr().out
    assert "ZeroDivisionError" in report and "path of this machine" in report
