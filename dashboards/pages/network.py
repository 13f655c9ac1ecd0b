"""Networks as drawings, which need torch and the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from nasforge.core.command_line import command_for
from nasforge.core.errors import NasforgeError, TrustError
from nasforge.core.trial import Trial
from nasforge.core.trust import view as only_looking
from nasforge.dashboards.library import Entry, View
from nasforge.views.network_svg import network_svg
from nasforge.views.svg import missing
from nasforge.views.winner import winner_and_reference

_DRAWING = Lock()


def networks_of(view: View, chosen: Sequence[Trial]) -> Callable[[], str]:
    """Return a function that draws the networks of trials, to be called when the view is free again."""
    folder, state, entry = view.reader.folder, view.state, view.entry

    def draw() -> str:
        from nasforge.views.parts import Part, parts_of_trial  # torch, not before it is needed

        networks: dict[str, list[Part]] = {}
        problems = []
        with _DRAWING:
            for one in chosen:
                title = f"trial {one.number}" + (f", {one.architecture.arch_id}" if one.architecture else "")
                try:
                    with only_looking():
                        networks[title] = parts_of_trial(folder, state, one)
                except TrustError as error:
                    command = command_for(entry.folder, "show", "--trial", str(one.number), "--draw", "network.html")
                    problems.append(f"Not drawn: {error}. Draw it by: {command}")
                except NasforgeError as error:
                    problems.append(f"Not drawn: {error}")
        return (network_svg(networks) if networks else "") + "".join(map(missing, dict.fromkeys(problems)))

    return draw


def winner_drawing(entry: Entry) -> str:
    """Return the network in `best/` next to its retrained reference as SVG, and why one of them is not drawn."""
    with _DRAWING, only_looking():
        networks, problems = winner_and_reference(entry.folder)
    return (network_svg(networks) if networks else "") + "".join(map(missing, problems))
