"""The wheel's content: everything it installs lives below the package `nasforge`."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import nasforge

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


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
