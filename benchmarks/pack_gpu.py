"""Pack what `gpu.py` needs on a machine without network: our wheel, the wheels missing there, two data sets.

    python -m pip list --format=freeze > there.txt            # on that machine, with its Python
    python benchmarks/pack_gpu.py --installed there.txt --python 3.12 --data $NASFORGE_DATA --out pack
    python pack/piece-000/pack_gpu.py --unpack pack --into battery           # there: checks, joins and installs
    PYTHONPATH=battery/site python battery/benchmarks/gpu.py --data battery/data --out results

The folder consists of pieces of at most 60 MB. Carry them one by one if need be; --unpack says which are missing. Data
sets are taken as they are. Packages that no stage imports are left out: MLflow, Optuna, SQLAlchemy, the exporters'.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT_MB = 60
MANIFEST = "manifest.json"
DATA = ("fashion_mnist.npz", "cifar10_half.npz")
UNUSED = frozenset({"mlflow", "optuna", "sqlalchemy", "onnx", "onnxscript", "onnxruntime"})
"""Dependencies that no stage imports."""
CARRIED = ("benchmarks", "tests", "pyproject.toml")
"""Of the repository, next to the wheel."""


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_in(file: Path) -> dict[str, str | None]:
    """Packages and their versions in the output of `pip list --format=freeze`; a name alone has no version."""
    packages = {}
    for line in file.read_text().splitlines():
        name, _, version = line.strip().partition("==")
        if name and not name.startswith("#"):
            packages[normal(re.split(r"[<>@; ]", name)[0])] = version or None
    return packages


def needed(present: Mapping[str, str | None], roots: Iterable[str]) -> list[str]:
    """Return `name==version` of the packages, installed here, that `roots` need and `present` lacks.

    What a present package needs is taken to be present too.

    Args:
        present: normal names of the packages there, with their versions; None: any will do.
        roots: requirements such as `ray[train,tune]>=2.60`.
    """
    from packaging.requirements import Requirement

    chosen: dict[str, str] = {}
    waiting = [Requirement(root) for root in roots]
    visited: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name, extras = normal(requirement.name), frozenset(requirement.extras)
        version = present.get(name)
        fits = name in present and (version is None or requirement.specifier.contains(version, prereleases=True))
        if (name, extras) in visited or name in UNUSED or fits:
            continue
        visited.add((name, extras))
        try:
            package = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            sys.exit(f"{requirement.name} is not installed here; install NASForge with its dependencies first")
        chosen[name] = f"{package.metadata['Name']}=={package.version}"
        for text in package.requires or ():
            below = Requirement(text)
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append(below)
    return sorted(chosen.values())


def download(requirements: Sequence[str], python: str, folder: Path) -> None:
    """Fetch wheels for another Python on Linux and x86-64."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17)]
    platforms += ["manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "-d", str(folder)]
    for platform in platforms:
        command += ["--platform", platform]
    subprocess.run([*command, *requirements], check=True)


def build_wheel(folder: Path) -> None:
    """Build this repository's wheel."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pack(files: Sequence[Path], out: Path, limit: int) -> int:
    """Write files into pieces of at most `limit` bytes each; returns the number of pieces.

    The first piece has the manifest and a copy of this script as well, which count to its size.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        sys.exit(f"{out} is not empty; choose a new folder")
    entries: list[dict[str, Any]] = []
    number, used = 0, Path(__file__).stat().st_size + 200 * len(files) + 4096
    for file in files:
        cuts: list[str] = []
        with file.open("rb") as stream:
            left = file.stat().st_size
            while left or not cuts:
                if used >= limit:
                    number, used = number + 1, 0
                content = stream.read(min(left, limit - used))
                place = Path(f"piece-{number:03}") / f"{file.name}.{len(cuts):03}"
                (out / place).parent.mkdir(exist_ok=True)
                (out / place).write_bytes(content)
                cuts.append(str(place))
                left, used = left - len(content), used + len(content)
        entries.append({"name": file.name, "sha256": digest(file), "cuts": cuts})
    first = out / "piece-000"
    first.mkdir(exist_ok=True)
    (first / MANIFEST).write_text(json.dumps({"files": entries, "pieces": number + 1}, indent=1))
    shutil.copy(__file__, first)
    return number + 1


def join(folder: Path, into: Path) -> list[Path]:
    """Put the files of a folder of pieces together again, and check them."""
    manifest = folder / "piece-000" / MANIFEST
    if not manifest.is_file():
        sys.exit(f"{manifest} is missing: carry piece-000 too")
    content = json.loads(manifest.read_text())
    missing = sorted(
        {cut.partition("/")[0] for e in content["files"] for cut in e["cuts"] if not (folder / cut).exists()}
    )
    if missing:
        sys.exit(f"{folder} lacks {', '.join(missing)} of {content['pieces']} pieces: carry them too")
    into.mkdir(parents=True, exist_ok=True)
    files = []
    for entry in content["files"]:
        file = into / entry["name"]
        with file.open("wb") as stream:
            for cut in entry["cuts"]:
                stream.write((folder / cut).read_bytes())
        if digest(file) != entry["sha256"]:
            sys.exit(f"{entry['name']} arrived damaged: carry {', '.join(entry['cuts'])} again")
        files.append(file)
    return files


def unpack(folder: Path, into: Path) -> None:
    """Join the pieces, install the wheels into `into`/site, and lay data and scripts next to it."""
    (into / "data").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        files = join(folder, Path(scratch))
        wheels = [str(file) for file in files if file.suffix == ".whl"]
        for file in files:
            if file.suffix == ".npz":
                shutil.move(file, into / "data" / file.name)
            elif file.suffix == ".gz":
                with tarfile.open(file) as archive:
                    archive.extractall(into, filter="data")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*command, "--upgrade", "--target", str(into / "site"), *wheels], check=True)
    print(f"PYTHONPATH={into}/site {sys.executable} {into}/benchmarks/gpu.py --data {into}/data --out results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("pack"), help="folder of pieces to write")
    parser.add_argument("--installed", type=Path, help="what is installed there; left out: torch and torchvision")
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--data", type=Path, help=f"folder with {' and '.join(DATA)}; left out: no data")
    parser.add_argument("--limit-mb", type=float, default=LIMIT_MB, help="size of a piece")
    parser.add_argument("--unpack", type=Path, metavar="PACK", help="join and install a folder of pieces")
    parser.add_argument("--into", type=Path, default=Path("battery"), help="where --unpack puts everything")
    options = parser.parse_args()
    if options.unpack:
        unpack(options.unpack.absolute(), options.into.absolute())
        return
    present = installed_in(options.installed) if options.installed else {"torch": None, "torchvision": None}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    roots = [*project["dependencies"], "pytest", "pytest-timeout"]
    with tempfile.TemporaryDirectory() as scratch:
        build_wheel(Path(scratch))
        missing = needed(present, roots)
        print("wheels:", ", ".join(missing) or "none are missing")
        if missing:
            download(missing, options.python, Path(scratch))
        with tarfile.open(Path(scratch) / "repository.tar.gz", "w:gz") as archive:
            for name in CARRIED:
                archive.add(ROOT / name, name, filter=lambda entry: None if "__pycache__" in entry.name else entry)
        files = sorted(Path(scratch).iterdir())
        files += [options.data / name for name in DATA] if options.data else []
        pieces = pack(files, options.out, round(options.limit_mb * 2**20))
    print(f"{options.out}: {pieces} pieces of at most {options.limit_mb:g} MB")


if __name__ == "__main__":
    main()
