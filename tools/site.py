"The book as a website: nbdev processes the notebooks into _proc/, Quarto renders them into _docs/."
import shutil
import subprocess
import sys

from tools.check_site import process
from tools.common import root

if __name__ == "__main__":
    if not shutil.which("quarto"):
        sys.exit("`make site` needs Quarto 1.9 or newer, which is not installed: https://quarto.org/docs/get-started\n"
                 "`make test` checks the site's sources without it.")
    pages = process(root)
    subprocess.run(["quarto", "render", "--no-execute"], cwd=pages, check=True)
    shutil.rmtree(root/"_docs", ignore_errors=True)
    shutil.move(pages/"_docs", root/"_docs")
    print("open _docs/index.html")
