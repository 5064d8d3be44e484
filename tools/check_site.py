"""Does the book hold together as a website? Everything but Quarto's own rendering.

nbdev processes the notebooks, each page goes through pandoc, and the rules of CONTRIBUTING.md are checked on pandoc's syntax tree, so that
an e-mail address, a decorator or an `@` in code is not taken for a citation. `python -m tools.check_site` prints the faults."""
import base64
import json
import os
import posixpath
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pypandoc
import yaml

from tools.common import environment, notebooks, root, shows_machine, snapshot, text

KINDS = ("fig", "eq", "sec", "tbl")
MAX_PAGE, MAX_IMAGE = 3_000_000, 150_000
CROSS = re.compile(rf"({'|'.join(KINDS)})-", re.IGNORECASE)
EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
REPR = re.compile(r"(\[?<matplotlib|<Axes|Text\(|<Figure|array\(\[<Axes)")


@dataclass
class Page:
    "What one page says, links to and weighs."
    path: str
    faults: list = field(default_factory=list)
    labels: list = field(default_factory=list)
    anchors: set = field(default_factory=set)
    refs: list = field(default_factory=list)
    cites: list = field(default_factory=list)
    links: list = field(default_factory=list)
    images: list = field(default_factory=list)
    weight: int = 0

    def name(self, identifier):
        "Register an anchor, and a label if it reads like one."
        if not identifier: return
        self.anchors.add(identifier)
        if CROSS.match(identifier): self.labels.append(identifier)


def pandoc(source, *options):
    "Pandoc's output and its warnings."
    done = subprocess.run([pypandoc.get_pandoc_path(), *options], input=source, capture_output=True, text=True, encoding="utf-8")
    return done.stdout, [" ".join(warning.split()) for warning in re.split(r"^(?=\[)", done.stderr, flags=re.M) if warning.strip()]


# ---- a processed notebook becomes the markdown that Quarto would hand to pandoc

def options_of(source, page):
    "The `#| key: value` lines of a cell, and its code."
    lines = source.splitlines()
    start = next((i for i, line in enumerate(lines) if not line.startswith("#|")), len(lines))
    head, code = [line[2:].strip() for line in lines[:start]], "\n".join(lines[start:])
    repeated = [key for key, n in Counter(line.partition(":")[0] for line in head).items() if n > 1]
    if repeated: page.faults.append(f"cell option given twice: {', '.join(repeated)}")
    try: return yaml.safe_load("\n".join(head)) or {}, code
    except yaml.YAMLError as e:
        page.faults.append(f"cell options are not YAML (quote the text): {head} {e.problem}")
        return {}, code


def fence(content, kind):
    "A fenced block that its content cannot close."
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", content))])
    return f"{ticks} {kind}\n{content}\n{ticks}\n"


def cell_figures(options, code, outputs, page):
    "Check the stored images of a cell against its label, caption and alt text."
    label = str(options.get("label", ""))
    where = f"figure {label or 'of the cell `' + code.strip().partition(chr(10))[0][:50] + '`'}"
    images = [(kind, text(data)) for out in outputs for kind, data in out.get("data", {}).items() if kind.startswith("image/")]
    for kind, data in images:
        size = len(data.encode()) if "svg" in kind else len(base64.b64decode(data))
        page.weight += size
        if size > MAX_IMAGE: page.faults.append(f"{where}: image of {size / 1000:.0f} kB, the limit is {MAX_IMAGE / 1000:.0f}")
    interactive = any("text/html" in out.get("data", {}) for out in outputs)
    if label.startswith("fig-") and not images and not interactive: page.faults.append(f"{where}: no figure is stored; run the notebook")
    if len(images) > 1: page.faults.append(f"{where}: {len(images)} images in one cell; one figure per cell")
    if images and not label.startswith("fig-"): page.faults.append(f"{where}: give it `#| label: fig-...`")
    if images or label.startswith("fig-"):
        if not options.get("fig-cap"): page.faults.append(f"{where}: no caption (`#| fig-cap: \"...\"`)")
    if images and not options.get("fig-alt"): page.faults.append(f"{where}: no alt text (`#| fig-alt: \"...\"`)")


def output_markdown(out, options, page):
    "One stored output as markdown."
    if out["output_type"] == "error":
        page.faults.append(f"a cell stores an error: {out.get('ename')}: {out.get('evalue')}")
        return ""
    if out["output_type"] == "stream":
        content = text(out["text"])
        if out["name"] == "stderr" and options.get("warning") is not False:
            page.faults.append(f"a cell stores a warning or progress bar (remove its cause or say `#| warning: false`): {content.strip()[:120]}")
        data = {"text/plain": content}
    else: data = {kind: text(value) for kind, value in out["data"].items() if isinstance(value, (str, list))}
    if any(kind.startswith("text/") and shows_machine(value) for kind, value in data.items()):
        page.faults.append(f"a stored output shows a path of one machine: {data.get('text/plain', '').strip()[:120]}")
    if any(kind.startswith("image/") for kind in data): return ""
    if "text/html" in data: return fence(data["text/html"], "{=html}")
    if "text/markdown" in data: return data["text/markdown"]
    if REPR.match(data.get("text/plain", "")):
        page.faults.append(f"the page would show {data['text/plain'][:60]!r}: end the cell with `plt.show()` or a semicolon")
    return fence(data.get("text/plain", ""), "")


def cell_markdown(cell, page):
    "A cell as markdown."
    source = text(cell["source"])
    if cell["cell_type"] != "code": return source
    options, code = options_of(source, page)
    if options.get("include") is False: return ""
    outputs = [] if options.get("output") is False else cell.get("outputs", [])
    cell_figures(options, code, outputs, page)
    page.name(options.get("label"))
    captions = [f"{options[key]}\n" for key in ("fig-cap", "tbl-cap") if isinstance(options.get(key), str)]
    shown = [fence(code, "{.python}")] if options.get("echo") is not False else []
    return "\n".join(["::: {.cell}", *shown, *(output_markdown(out, options, page) + "\n" for out in outputs), *captions, ":::"])


# ---- pandoc's syntax tree

class Html(HTMLParser):
    "Anchors, links and images of raw HTML."
    def __init__(self, page):
        super().__init__()
        self.page = page

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.page.name(found.get("id"))
        if tag == "a" and found.get("href"): self.page.links.append(found["href"])
        if tag == "img":
            if not found.get("alt"): self.page.faults.append(f"image {found.get('src', '')[:60]}: no alt text")
            self.page.images.append(found.get("src") or "")


def string(inlines):
    "The plain words of inlines."
    if isinstance(inlines, dict): return inlines["c"] if inlines.get("t") == "Str" else string(inlines.get("c", ""))
    return " ".join(filter(None, map(string, inlines))) if isinstance(inlines, list) else ""


def walk(node, page):
    "Collect from pandoc's syntax tree what pages are checked for."
    if isinstance(node, list):
        for i, item in enumerate(node):
            if isinstance(item, dict) and item.get("t") == "Str" and (found := re.match(r"\{#(\w+-[^}\s]*)\}", item["c"])):
                before = next((o for o in reversed(node[:i]) if o.get("t") not in ("Space", "SoftBreak")), {})
                if found[1].startswith("eq-") and before.get("t") != "Math":
                    page.faults.append(f"label {found[1]} must follow its $$...$$ directly")
                page.name(found[1])
            walk(item, page)
    if not isinstance(node, dict): return
    kind, content = node.get("t"), node.get("c")
    if kind == "Header":
        page.name(content[1][0])
        if content[0] == 1: page.faults.append(f"second title on the page: # {string(content[2])}")
    elif kind in ("Div", "Span", "Figure", "Table", "CodeBlock", "Code", "Image", "Link"): page.name(content[0][0])
    if kind == "Cite":
        for cite in content[0]:
            key = cite["citationId"]
            (page.refs if CROSS.match(key) else page.cites).append(key)
    elif kind == "Link": page.links.append(content[2][0])
    elif kind == "Image":
        url, attributes = content[2][0], dict(content[0][2])
        page.images.append(url)
        if not (string(content[1]) or attributes.get("fig-alt") or attributes.get("alt")): page.faults.append(f"image {url[:60]}: no alt text")
    elif kind in ("RawInline", "RawBlock") and content[0] == "html": Html(page).feed(content[1])
    walk(content, page)


def read_page(path, nb):
    "Everything that the checks need to know of a processed notebook."
    page = Page(path)
    markdown = "\n\n".join(cell_markdown(cell, page) for cell in nb["cells"])
    tree, warnings = pandoc(markdown, "-f", "markdown", "-t", "json")
    ast = json.loads(tree)
    title = ast["meta"].get("title")
    if title is None: page.faults.append("no title: begin with a cell `# Title`")
    elif "{#" in string(title): page.faults.append("a label on the chapter's title (it has a number already); label a section")
    walk(ast["blocks"], page)
    html, more = pandoc(tree, "-f", "json", "-t", "html5", "--mathml")
    page.faults += [f"pandoc: {w}" for w in warnings + more]
    page.weight += len(html.encode())
    return page


# ---- the book

def chapters(quarto):
    "The notebooks that _quarto.yml lists, in order."
    def files(items):
        for item in items:
            if isinstance(item, str): yield item
            else: yield from [o for o in [item.get("part", "")] if o.endswith(".ipynb")] + list(files(item.get("chapters", [])))
    book = quarto["book"]
    return list(files(book["chapters"])) + list(files(book.get("appendices", [])))


def check_chapters(quarto, sources):
    "Is every notebook a chapter and every chapter a notebook?"
    listed = chapters(quarto)
    return ([f"_quarto.yml lists {c}, which does not exist" for c in listed if c not in sources]
            + [f"{s} is not in _quarto.yml" for s in sources if s not in listed]
            + [f"_quarto.yml lists {c} twice" for c, n in Counter(listed).items() if n > 1])


def bibliography(bib):
    "The keys of a BibTeX file and the faults of the file."
    entries, warnings = pandoc(bib, "-f", "biblatex", "-t", "csljson")
    entries = json.loads(entries or "[]")
    repeated = [key for key, n in Counter(re.findall(r"^\s*@\w+\s*\{\s*([^,\s]+)", bib, re.M)).items() if n > 1]
    return {e["id"] for e in entries}, ([f"references.bib: {w}" for w in warnings] + [f"references.bib: {key} stands twice" for key in repeated]
                                        + [f"references.bib: {e['id']} has neither DOI nor URL" for e in entries if not (e.get("DOI") or e.get("URL"))])


def check_link(link, page, pages, files):
    "Why an internal link leads nowhere, or None."
    if EXTERNAL.match(link): return None
    target, _, anchor = link.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), target)) if target else page.path
    if path.endswith(".html"): path = path.removesuffix(".html") + ".ipynb"
    if path not in pages: return None if path in files and not anchor else f"link leads nowhere: {link}"
    return f"link to a missing anchor: {link}" if anchor and anchor not in pages[path].anchors else None


def check_pages(pages, bib, files):
    "Faults of the book: `pages` by path, BibTeX text, and sizes of the other files by path."
    by_path, (keys, faults) = {p.path: p for p in pages}, bibliography(bib)
    labels = Counter(label for p in pages for label in p.labels)
    faults += [f"label {label} stands {n} times" for label, n in labels.items() if n > 1]
    for page in pages:
        own = list(page.faults)
        own += [f"@{ref} has no label" for ref in page.refs if ref[0].lower() + ref[1:] not in labels]
        own += [f"@{key} is not in references.bib" for key in sorted(set(page.cites) - keys)]
        own += filter(None, (check_link(link, page, by_path, files) for link in page.links))
        local = [posixpath.normpath(posixpath.join(posixpath.dirname(page.path), url)) for url in page.images if not EXTERNAL.match(url)]
        own += [f"image {image} does not exist" for image in local if image not in files]
        own += [f"image {image}: {files[image] / 1000:.0f} kB" for image in local if files.get(image, 0) > MAX_IMAGE]
        weight = page.weight + sum(files.get(image, 0) for image in local)
        if weight > MAX_PAGE: own.append(f"page of {weight / 1e6:.1f} MB, the limit is {MAX_PAGE / 1e6:.0f}")
        faults += [f"{page.path}: {fault}" for fault in own]
    return faults, sorted(keys - {c for p in pages for c in p.cites})


def process(tree):
    "nbdev's processed notebooks, in `tree/_proc`."
    done = subprocess.run([sys.executable, "-c", "from nbdev.serve import proc_nbs; proc_nbs(force=True, n_workers=0)"],
                          cwd=tree, env={**environment(tree), "PYTHONPATH": f"{tree}{os.pathsep}{root}"}, capture_output=True, text=True)
    if done.returncode: raise RuntimeError(f"nbdev could not process the notebooks:\n{done.stderr[-3000:]}")
    return tree/"_proc"


def check(tree):
    "Faults of the book in `tree` (where _proc is written) and the references that no page cites."
    nbs, out = tree/"nbs", process(tree)
    sources = [str(p.relative_to(nbs)) for p in notebooks(tree)]
    faults = check_chapters(yaml.safe_load((nbs/"_quarto.yml").read_text()), sources)
    pages = [read_page(path, json.loads((out/path).read_text())) for path in sources]
    files = {str(p.relative_to(nbs)): p.stat().st_size for p in nbs.rglob("*") if p.is_file()}
    more, unused = check_pages(pages, (nbs/"references.bib").read_text(), files)
    return faults + more, unused


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder: found, unused = check(snapshot(folder))
    if unused: print(f"not cited: {', '.join(unused)}")
    print("\n".join(found) or "The site's sources hold.")
    sys.exit(bool(found))
