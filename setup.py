"Package metadata, read from settings.ini so that it stands in one place."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
lib = settings["lib_name"]

setup(
    name=lib,
    version=settings["version"],
    description=settings["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    project_urls={"Documentation": settings["doc_host"] + settings["doc_baseurl"]},
    license="Apache-2.0",
    keywords=settings["keywords"],
    packages=[lib],
    package_data={lib: ["py.typed", "*.pyi"]},
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require={extra: settings[f"{extra}_requirements"].split() for extra in ("data", "cluster", "lab", "dev", "bench")},
    entry_points={"console_scripts": settings["console_scripts"].split(), "nbdev": [f"{lib}={lib}._modidx:d"]},
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Science/Research",
                 "Programming Language :: Python :: 3.11", "Programming Language :: Python :: 3.12",
                 "Programming Language :: Python :: 3.13", "Topic :: Scientific/Engineering :: Bio-Informatics"],
    zip_safe=False,
)
