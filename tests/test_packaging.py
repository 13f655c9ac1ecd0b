"""The wheel's content: everything it installs lives below the package `nasforge`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib.resources import files
from pathlib import Path

import pytest

import nasforge

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def test_the_wheel_installs_one_top_level_package():
    setuptools = pytest.importorskip("setuptools")
    packages = setuptools.find_packages(str(ROOT), include=SETUPTOOLS["packages"]["find"]["include"])
    assert {package.split(".")[0] for package in packages} == {"nasforge"}
    assert {"nasforge.dashboards", "nasforge.search_spaces"} <= set(packages)


def test_the_wheel_has_every_shipped_yaml_file():
    folder = ROOT / "search_spaces"
    packed = {file for glob in SETUPTOOLS["package-data"]["nasforge.search_spaces"] for file in folder.glob(glob)}
    assert packed == set(folder.rglob("*.yaml"))


@pytest.mark.parametrize("name", ["dashboards", "search_spaces"])
def test_a_folder_at_the_top_is_part_of_the_package(name):
    inside = Path(str(files(f"nasforge.{name}")))
    assert inside.parent == Path(nasforge.__file__).parent
    assert inside.samefile(ROOT / name)


def test_the_metadata_is_what_pypi_shows():
    project = PYPROJECT["project"]
    assert project["version"] == nasforge.__version__
    assert len(project["description"]) <= 512, "PyPI's limit"
    python = project["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]
    assert not [line for line in project["classifiers"] if line.startswith("License ::")], "`license` has it (PEP 639)"
    assert set(project["optional-dependencies"]) == {"dashboard", "dev", "export", "samplers"}
    assert (ROOT / project["readme"]).is_file() and f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_the_built_wheel_and_source_distribution(tmp_path):
    setuptools = pytest.importorskip("setuptools", "77")
    pytest.importorskip("build")
    assert setuptools
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("nasforge", "dashboards", "search_spaces", "tests"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    installed = {name.partition("/")[0] for name in names}
    assert installed == {"nasforge", f"nasforge-{nasforge.__version__}.dist-info"}
    packed = {name.removeprefix("nasforge/search_spaces/") for name in names if name.endswith(".yaml")}
    assert packed == {
        str(file.relative_to(ROOT / "search_spaces")) for file in (ROOT / "search_spaces").rglob("*.yaml")
    }
    assert {
        *("nasforge/py.typed", "nasforge/views/svg.css", "nasforge/views/page.css", "nasforge/dashboards/app.py"),
        *("nasforge/views/report.js", "nasforge/dashboards/templates/base.html", "nasforge/dashboards/static/live.js"),
    } <= set(names)
    assert Parser().parsestr(metadata)["License-Expression"] == "Apache-2.0"

    (packed_source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(packed_source) as archive:
        folders = {name.split("/")[1] for name in archive.getnames() if name.count("/") > 1}
    assert folders == {"nasforge", "nasforge.egg-info"}
