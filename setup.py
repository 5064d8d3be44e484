"Everything that changes lives in settings.ini; this file hands it to setuptools."
import configparser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
parser = configparser.ConfigParser(delimiters=["="])
parser.read(root/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
readme = root/"README.md"  # made by `make export`, which needs this package's tools installed first

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={"Book": cfg["doc_host"] + cfg["doc_baseurl"]},
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Science/Research", "Intended Audience :: Education",
                 "Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Chemistry"],
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={k.removeprefix("extra_"): v.split() for k, v in cfg.items() if k.startswith("extra_")},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    packages=find_packages(include=["eqbook", "eqbook.*"]),
    package_data={"eqbook": ["datasets/*.npz", "exercises_nb/**", "weights/**"]},
    zip_safe=False,
)
