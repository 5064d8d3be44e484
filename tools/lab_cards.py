"""A student's first minutes in JupyterLab, in a headless Chromium: a started course, a wrong answer, then a right one.

`python -m tools.lab_cards` draws the book's picture of both cards, nbs/images/cards.png."""
import io
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from eqbook.course import start
from eqbook.exercises import entry
from tools.common import environment, root

EXERCISE, PATIENCE = "ex_0_1", 120  # seconds
NOTEBOOK = "window.jupyterapp.shell.currentWidget"
WRONG = '''def rotate_vector(v, axis, angle):
    "The vectors turned, but the wrong way round."
    n, angle = axis / axis.norm(dim=-1, keepdim=True), torch.as_tensor(angle, dtype=v.dtype)[..., None]
    along = (n * v).sum(-1, keepdim=True) * n
    return angle.cos() * v - angle.sin() * torch.linalg.cross(*torch.broadcast_tensors(n, v)) + (1 - angle.cos()) * along'''


def chromium():
    "Path of a Chromium, or None."
    return next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def jupyterlab(course, runtime):
    "Address of a JupyterLab on a folder; it ends with the block."
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0", "--expose-app-in-browser", f"--ServerApp.root_dir={course}"]
    places = {f"JUPYTER_{name}_DIR": str(runtime/name.lower()) for name in ("RUNTIME", "CONFIG", "DATA")} | {"JUPYTERLAB_SETTINGS_DIR": str(runtime/"settings")}
    quiet = runtime/"settings"/"@jupyterlab"/"apputils-extension"/"notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    server = subprocess.Popen(command, env=environment(root) | places | {"JUPYTER_PREFER_ENV_PATH": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(10 * PATIENCE):
            found = [json.loads(p.read_text()) for p in (runtime/"runtime").glob("jpserver-*.json")]
            if found or server.poll() is not None: break
            time.sleep(0.1)
        if not found: raise RuntimeError(f"JupyterLab did not start (exit code {server.poll()})")
        yield found[0]["url"], found[0]["token"]
    finally:
        server.terminate()
        server.wait(30)


def answer_and_check(page, index, source):
    "Type an answer into cell `index`, run it and the check below; the card's classes, words and picture."
    app = f"{NOTEBOOK}.content"
    page.evaluate(f"i => {{ {app}.activeCellIndex = i; {app}.deselectAll(); }}", index)
    page.evaluate(f"i => {app}.scrollToItem(i, 'start')", index)
    page.evaluate("window.jupyterapp.commands.execute('notebook:enter-edit-mode')")
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(source)
    page.keyboard.press("Escape")
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
    page.evaluate(f"i => {{ {app}.activeCellIndex = i; }}", index + 1)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
    card = page.locator(".eqbook-card").first
    card.wait_for(timeout=1000 * PATIENCE)
    cell = page.locator(".jp-Notebook .jp-CodeCell", has=card).first
    return dict(classes=card.get_attribute("class"), words=card.inner_text(), cell=cell.inner_text(), picture=cell.screenshot())


def walk(folder):
    "Start a course in `folder`, open its first chapter, answer the first exercise wrongly, then rightly; what is seen each time."
    from playwright.sync_api import sync_playwright
    course = Path(folder)/"course"
    start(course)
    name = entry(EXERCISE)["notebook"]
    cells = json.loads((course/f"{name}.ipynb").read_text())["cells"]
    index = next(k for k, cell in enumerate(cells) if cell["metadata"].get("eqbook", {}).get("exercise") == EXERCISE)
    with jupyterlab(course, Path(folder)) as (url, token), sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.goto(f"{url}lab/tree/{name}.ipynb?token={token}")
        page.wait_for_function(f"{NOTEBOOK.replace('.', '?.')}?.content?.widgets?.length > 5 && {NOTEBOOK}.sessionContext.session?.kernel?.status === 'idle'",
                               timeout=1000 * PATIENCE)
        page.evaluate(f"i => {{ {NOTEBOOK}.content.activeCellIndex = i; return window.jupyterapp.commands.execute('notebook:run-all-above'); }}", index)
        seen = {"wrong": answer_and_check(page, index, WRONG)}
        page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        page.locator(".eqbook-card").wait_for(state="detached")
        seen["right"] = answer_and_check(page, index, entry(EXERCISE)["solution"])
        browser.close()
    seen["progress"] = json.loads((course/f"{name}.progress.json").read_text())["exercises"][EXERCISE]
    return seen


def draw(seen, path):
    "Both cards in one picture."
    from PIL import Image
    pictures = [Image.open(io.BytesIO(seen[answer]["picture"])) for answer in ("wrong", "right")]
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures) + 8), "white")
    sheet.paste(pictures[0], (0, 0))
    sheet.paste(pictures[1], (0, pictures[0].height + 8))
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    import tempfile
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder: draw(walk(folder), root/"nbs"/"images"/"cards.png")
    print("drew nbs/images/cards.png")
