"Write constraints.txt: the exact versions of this environment, without anything that only this machine has."
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

header = "# Exact versions that the tests passed with. Written by `make constraints`; install with `pip install -c constraints.txt -e .`\n"
skip = {"eqbook", "pip", "wheel", "setuptools"}  # setuptools: its version is the build system's own matter


def line(dist):
    "One constraint; a version too new for Python 3.10 is asked for from the Python that it needs."
    needs = SpecifierSet(dist.metadata.get("Requires-Python") or "")
    oldest = next((v for v in ("3.10", "3.11", "3.12") if f"{v}.99" in needs), None)
    marker = "" if oldest == "3.10" else f' ; python_version >= "{oldest}"'
    return f"{canonicalize_name(dist.name)}=={Version(dist.version).public}{marker}"


if __name__ == "__main__":
    lines = sorted({line(d) for d in distributions() if canonicalize_name(d.name) not in skip})
    Path("constraints.txt").write_text(header + "\n".join(lines) + "\n")
    print(f"constraints.txt: {len(lines)} packages")
