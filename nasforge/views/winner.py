"""The winner next to the reference that was retrained with it, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ExportError, NasforgeError
from nasforge.core.layout import BEST, DESCRIPTION, FINALISTS
from nasforge.core.space import SearchSpace
from nasforge.experiment.journal import loads
from nasforge.views.results import finalist_in_best

if TYPE_CHECKING:
    from nasforge.views.parts import Part

WINNER = "the winner"


def winner_and_reference(folder: Path) -> tuple[dict[str, list[Part]], list[str]]:
    """Return the networks to draw, by title, and why others cannot be drawn.

    Builders run under the rule of trust that is in force: see `nasforge.core.trust`.

    Args:
        folder: of the search or fit, with `best` and `finalists`.
    """
    folders = {WINNER: folder / BEST}
    references = sorted((folder / FINALISTS).glob("*-for-*-seed*"))
    mine = finalist_in_best(folder).rpartition("-seed")[0]
    of_winner = [path for path in references if mine and f"-for-{mine}-seed" in path.name]
    for path in of_winner or references[:1]:
        folders.setdefault(path.name.partition("-for-")[0], path)  # the first of its seeds
    networks: dict[str, list[Part]] = {}
    problems = []
    for title, place in folders.items():
        if not (place / DESCRIPTION).is_file():
            continue
        try:
            networks[title] = parts_of_folder(place)
        except NasforgeError as error:
            problems.append(f"Not drawn: {error}")
    return networks, problems


def parts_of_folder(folder: Path) -> list[Part]:
    """Return the parts of the network in a network folder.

    Raises:
        ExportError: `network.json` is missing or damaged.
        TrustError: its builder may not run here.
        BuildError: its builder does not make it any more.
    """
    from nasforge.views.parts import parts_of  # torch, not before it is needed

    path = folder / DESCRIPTION
    try:
        about = loads(path.read_text(encoding="utf-8"))
        channels, height, width = (int(size) for size in about["shape"])
        space, point = SearchSpace.from_json(about["space"]), Architecture.from_json(about["architecture"])
        classes = len(about["class_names"])
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise ExportError(
            f"{path}: the description of the network is damaged ({type(error).__name__}: {error}). Retrain it",
            kind="unreadable",
        ) from None
    return parts_of(space, point, (channels, height, width), classes)
