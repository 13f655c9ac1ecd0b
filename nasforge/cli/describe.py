"""The command `describe`: the decisions of a space, what its networks cost, one network stage by stage."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasforge import registry
from nasforge.cli import completion
from nasforge.cli.options import Json
from nasforge.cli.output import Outcome, count_text, domain_text, line, size_json, table
from nasforge.cli.settings import check_data
from nasforge.core.architecture import MODEL, Architecture, Value
from nasforge.core.errors import BuildError, ConfigError, NasforgeError, RecipeError, SpaceError
from nasforge.core.paths import home_expanded
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.models.resolution import suited
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.settings.space_file import shipped_spaces
from nasforge.views.texts import size_text

if TYPE_CHECKING:
    from nasforge.views.parts import Part

SAMPLES = 100
Shape = tuple[int, int, int]


def describe(
    space: Annotated[
        str,
        typer.Argument(
            metavar="SPACE",
            help="A YAML file, a shipped name, or a reference of `retrain`: vgg, timm:resnet18.",
            autocompletion=completion.described,
        ),
    ],
    point: Annotated[
        str | None, typer.Option(metavar="FILE|random|default", help="Show one network of the space, layer by layer.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Take image size and classes from this data set.", autocompletion=completion.data)
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of torchvision's downloads.")] = None,
    shape: Annotated[str, typer.Option(metavar="CxHxW", help="Image size.")] = "3x32x32",
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of random points.")] = 0,
    draw: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --point or a reference: draw the network into a .html or .png file."),
    ] = None,
    flops: Annotated[
        float | None,
        typer.Option(help="Scale a reference to this many multiply-adds. Default: the width of its paper."),
    ] = None,
    gradcheck: Annotated[
        bool,
        typer.Option(
            "--gradcheck",
            help="Compare the gradients of the networks with two-sided differences in float64. The exit code is 1 if "
            "one is wrong.",
        ),
    ] = False,
    as_json: Json = False,
) -> Outcome:
    """Show the decisions of a search space, its number of networks, and their costs.

    [bold]Examples[/bold]

    \b
    nasforge describe blocks
    nasforge describe search_spaces/tiny.yaml --data digits
    nasforge describe tiny --shape 1x8x8 --point random
    nasforge describe tiny --shape 1x8x8 --point point.json --json
    nasforge describe blocks --point random --draw network.png
    nasforge describe vgg --shape 3x224x224 --classes 1000
    nasforge describe mobilenet_v2 --flops 8e6 --draw reference.png
    nasforge describe tiny --shape 3x16x16 --gradcheck
    """
    size, count = _input(data, data_dir, shape, classes)
    chosen = _space_of(space, size, count, flops)
    if point is None and not chosen.decisions and _is_reference(space):
        point = "default"
    if gradcheck:
        if draw is not None:
            raise ConfigError("--gradcheck checks and --draw draws: one at a time", kind="conflict", key="gradcheck")
        return check_space(chosen, point, size, count, seed)
    if point is not None:
        return describe_point(chosen, point, size, count, seed, draw)
    if draw is not None:
        raise ConfigError("--draw draws one network. Choose it with --point random", kind="missing", key="point")
    return describe_space(chosen, size, count, seed)


def _is_reference(source: str) -> bool:
    """Return whether this is the name of a reference; a shipped space or a file of that name comes first."""
    known = source.startswith("timm:") or source in registry.names("reference")
    return known and source not in shipped_spaces() and not Path(source).is_file()


def _space_of(source: str, shape: Shape, classes: int, flops: float | None) -> SearchSpace:
    """Return a space for these images; for a reference the space that holds it alone.

    Raises:
        ConfigError: unknown, or `flops` does not go with it.
    """
    if not _is_reference(source):
        if flops is not None:
            raise ConfigError(
                f"--flops scales a reference, and '{source}' is a search space; leave it out",
                kind="conflict",
                key="flops",
            )
        return suited(load_space(source), shape)
    from nasforge.models.textbook import Textbook, reference_named  # imports torch

    reference = reference_named(source)
    if flops is not None:
        return reference(flops, shape=shape, classes=classes)[1]
    if isinstance(reference, Textbook):
        return reference.at(1.0, shape=shape, classes=classes)[1]
    raise ConfigError(
        f"reference '{source}' has no default size. Set its multiply-adds: --flops 40e6",
        kind="missing",
        key="flops",
    )


def describe_space(space: SearchSpace, size: Shape, count: int, seed: int) -> Outcome:
    """Return a space: its decisions, how many networks it holds, what some of them cost."""
    costs, broken = sampled_costs(space, size, count, seed)
    try:
        default = costs_of_point(space, space.default_point(), size, count)
    except NasforgeError:
        default = None
    content = {
        "space": space.name,
        "builder": space.builder,
        "shape": size,
        "classes": count,
        **size_json("points", space.size),
        **size_json("networks", architectures(space)),
        "sampled": len(costs),
        "unbuildable": len(broken),
        "first_problem": broken[0] if broken else None,
        "costs": summary_of(costs, default),
        "decisions": {key: domain.to_json() for key, domain in space.domains.items()},
    }
    print_space(space, content)
    return Outcome(content)


def describe_point(space: SearchSpace, point: str, size: Shape, count: int, seed: int, draw: Path | None) -> Outcome:
    """One network of a space, part by part; drawn into the file `draw`."""
    from nasforge.views.parts import parts_of

    chosen = read_point(space, point, seed)
    parts = parts_of(space, chosen, size, count)
    content = {
        "space": space.name,
        "builder": space.builder,
        "shape": size,
        "classes": count,
        "arch_id": chosen.arch_id,
        "point_id": chosen.point_id,
        "architecture": chosen.to_json(),
        "costs": costs_of_point(space, chosen, size, count),
        "network": [part.to_json() for part in parts],
    }
    print_point(content, parts)
    if draw is not None:
        draw_network(f"{space.name}, {chosen.arch_id}" if chosen.values else space.name, parts, draw)
    return Outcome(content)


def check_space(space: SearchSpace, point: str | None, size: Shape, count: int, seed: int) -> Outcome:
    """Check the gradients of one network, or of the default and of as many random ones as bring new options."""
    from nasforge.core.recipe import recipe_of
    from nasforge.models.network import fresh
    from nasforge.training.gradients import check_gradients, merged  # imports torch

    points = covering_points(space, seed) if point is None else [read_point(space, point, seed)]
    checks = []
    for chosen in points:
        network = fresh(space, chosen, seed, in_channels=size[0], classes=count)
        checks.append(check_gradients(network, size, classes=count, recipe=recipe_of(space, chosen, {}), seed=seed))
        if checks[-1].disagreement is not None:
            break
    whole, wrong = merged(checks), checks[-1].disagreement
    for reason in whole.unchecked:
        line(f"Not checked: {reason}", style="yellow")
    if wrong is None:
        networks = f"{len(checks)} network{'s' * (len(checks) > 1)} of {space.name}"
        line(
            f"The gradients of {len(whole.modules)} modules in {networks} agree with two-sided differences in float64; "
            f"the largest relative error is {whole.largest_error:.1e}"
        )
    else:
        line(f"{space.name}, {points[len(checks) - 1].arch_id}: {wrong}", style="red")
    content = {
        "space": space.name,
        "shape": size,
        "agrees": wrong is None,
        "networks": [chosen.arch_id for chosen in points[: len(checks)]],
        "modules": len(whole.modules),
        "largest_error": whole.largest_error,
        "unchecked": list(whole.unchecked),
        "disagreement": None if wrong is None else asdict(wrong),
    }
    return Outcome(content, code=0 if wrong is None else 1)


def covering_points(space: SearchSpace, seed: int) -> list[Architecture]:
    """Return the default point, and of some random ones those with an option that none before them has."""
    points: list[Architecture] = []
    seen: set[tuple[str, Value]] = set()
    domains = space.domains
    for number in range(SAMPLES):
        point = space.sample(Random(f"gradcheck/{seed}/{number}")) if number else space.default_point()
        options = {  # stage0.layer0.block and stage1.layer2.block are one decision here
            (re.sub(r"\d+", "#", key), value)
            for key, value in point.values.items()
            if key.startswith(MODEL) and isinstance(domains[key], Choice)
        }
        if not points or options - seen:
            points.append(point)
            seen |= options
    return points


def _input(data: str | None, data_dir: Path | None, shape: str, classes: int) -> tuple[Shape, int]:
    """Shape and number of classes of the data, or as they are given."""
    default_shape = parse_shape(shape)
    if data is None:
        return default_shape, classes
    check_data(data)
    from nasforge.data import load_data  # imports torch

    images = load_data(DataConfig(data, folder=str(data_dir) if data_dir else None))
    return images.shape, len(images.class_names)


def parse_shape(text: str) -> Shape:
    """`3x32x32` -> (3, 32, 32). Raises ConfigError otherwise."""
    match = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})x([1-9]\d{0,8})", text)
    if not match:
        raise ConfigError(f"--shape '{text}' must look like 3x32x32: channels, height, width", kind="type", key="shape")
    channels, height, width = (int(number) for number in match.groups())
    return channels, height, width


def read_point(space: SearchSpace, source: str, seed: int) -> Architecture:
    """Return a point from a JSON file, `{"values": {...}}` or plain `{key: value}`; or `random`, or `default`.

    Raises:
        ConfigError: the file cannot be read.
        SpaceError: it is not a point of the space.
    """
    if source == "random":
        return space.sample(Random(seed))
    if source == "default":
        return space.default_point()
    return space.point(read_values(source, "--point", "give a JSON file, 'random' or 'default'"))


def read_values(source: str, option: str, advice: str = "give a JSON file") -> dict[str, Any]:
    """Decisions and values from a JSON file, as `read_point` takes them; `option` is what named the file.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(home_expanded(source).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{option} '{source}': no such file; {advice}", kind="missing") from None
    except (OSError, RecursionError, ValueError) as error:
        raise ConfigError(f"{option} {source}: cannot be read as JSON: {error}", kind="unreadable") from None
    for key in ("best", "architecture"):  # what `search --json` and network.json wrap around a point
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    values = content.get("values", content) if isinstance(content, dict) else None
    if not isinstance(values, dict):
        raise SpaceError(
            f'{option} {source}: needs a mapping from decisions to values, or {{"values": {{...}}}}', kind="type"
        )
    return values


def decision_rows(space: SearchSpace) -> list[dict[str, str]]:
    """One row per decision; neighbours that differ in their numbers alone share one, as `stage{0..2}.width`."""
    rows: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for decision, condition in _walk(space.decisions, ""):
        value = space.default_of(decision.key)
        default = f"{value:.4g}" if isinstance(value, float) else str(value)
        kind = (re.sub(r"\d+", "#", decision.key), domain_text(decision.domain), condition)
        rows.setdefault(kind, []).append((decision.key, default))
    table_rows = []
    for (pattern, domain, condition), members in rows.items():
        keys = [key for key, _ in members]
        defaults = list(dict.fromkeys(default for _, default in members))
        whole = _ranged(pattern, keys)
        for key, default in [(whole, ", ".join(defaults))] if whole else members:
            table_rows.append({"decision": key, "values": domain, "default": default, "active if": condition})
    return table_rows


def _walk(decisions: Sequence[Decision], condition: str) -> list[tuple[Decision, str]]:
    pairs = []
    for decision in decisions:
        pairs.append((decision, condition))
        if isinstance(decision.domain, Choice):
            for option, branch in zip(decision.domain.options, decision.domain.branches, strict=True):
                pairs += _walk(branch, f"block is {option}" if decision.key.endswith(".block") else f"it is {option}")
    return pairs


def _ranged(pattern: str, keys: Sequence[str]) -> str | None:
    """Return the range key that stands for exactly these keys; None where there is none."""
    numbers = [[int(number) for number in re.findall(r"\d+", key)] for key in keys]
    columns = list(zip(*numbers, strict=True))
    spans = [(min(column), max(column)) for column in columns]
    if math.prod(last - first + 1 for first, last in spans) != len(keys):
        return None
    texts = iter(f"{{{first}..{last}}}" if last > first else str(first) for first, last in spans)
    return re.sub("#", lambda match: next(texts), pattern)


def costs_of_point(space: SearchSpace, point: Architecture, shape: Shape, classes: int) -> dict[str, float]:
    """Params, multiply-adds and memory of the network of one point. Raises BuildError."""
    from nasforge.core.recipe import recipe_of
    from nasforge.models.costs import costs_of
    from nasforge.models.network import build

    batch_size = recipe_of(space, point, {}).batch_size
    return costs_of(lambda: build(space, point, in_channels=shape[0], classes=classes), shape, batch_size, classes)


def sampled_costs(
    space: SearchSpace, shape: Shape, classes: int, seed: int
) -> tuple[list[dict[str, float]], list[str]]:
    """Costs of random points, and why the others have none: no network for this input, or a recipe that cannot be."""
    costs, broken = [], []
    for number in range(SAMPLES):
        try:
            point = space.sample(Random(f"describe/{seed}/{number}"))
            costs.append(costs_of_point(space, point, shape, classes))
        except (BuildError, RecipeError) as error:
            broken.append(str(error))
    return costs, broken


def draw_network(title: str, parts: Sequence[Part], path: Path) -> None:
    """Draw a network into `path`: a page (.html) or a picture (.png).

    Raises:
        ConfigError: another ending.
        ExportError: Chromium is missing, or the file cannot be written.
    """
    from nasforge.views import page
    from nasforge.views.network_svg import network_svg
    from nasforge.views.picture import draw_page, write
    from nasforge.views.svg import size_of, standalone

    if path.suffix not in (".html", ".png"):
        raise ConfigError(f"--draw '{path}': must end with .html or .png", kind="type", key="draw")
    figure = network_svg({title: parts})
    if path.suffix == ".html":
        write(path, page.document(title, [f"<h1>{escape(title)}</h1>", figure]))
    else:
        drawing = standalone(figure)
        width, height = size_of(drawing)
        draw_page(page.picture(drawing), path, width + 2 * page.MARGIN, height + 2 * page.MARGIN)
    line(f"Drawn: {path}")


def architectures(space: SearchSpace) -> float:
    """Return the number of networks in the space: its size over `model.*` alone."""
    return SearchSpace(space.name, tuple(d for d in space.decisions if d.key.startswith(MODEL))).size


def print_space(space: SearchSpace, content: Mapping[str, Any]) -> None:
    """Print the answer of `describe SPACE`."""
    built = f"built by {space.builder}" if space.builder else "without a builder, for tables alone"
    line(f"{space.name}: {built}, {len(space.domains)} decisions", style="bold")
    line(f"points: {size_text(space.size)}; networks: {size_text(architectures(space))}")
    rows = decision_rows(space)
    columns = ("decision", "values", "default", "active if")
    table("Decisions", columns, [[row[column] for column in columns] for row in rows], left=columns)
    costs = content["costs"]
    names = [("params", "cost/params", count_text), ("flops", "cost/flops", count_text)]
    names.append(("memory, MB", "cost/memory_mb", lambda value: f"{value:.1f}"))
    body = []
    for label in ("default", "smallest", "median", "largest"):
        known = costs[label]
        body.append([label, *(text(known[key]) if known else "-" for _, key, text in names)])
    shape = "x".join(str(n) for n in content["shape"])
    title = (
        f"Costs for images {shape}, {content['classes']} classes ({content['sampled']} random points and the default)"
    )
    table(title, ("point", *(name for name, _, _ in names)), body, left=("point",))
    if content["unbuildable"]:
        line(f"{content['unbuildable']} of {SAMPLES} random points cannot be built for this input", style="yellow")
        line(f"the first of them: {content['first_problem']}", style="yellow")


def print_point(content: Mapping[str, Any], parts: Sequence[Part]) -> None:
    """Print the answer of `describe SPACE --point`."""
    line(f"arch_id {content['arch_id']}, point_id {content['point_id']}", style="bold")
    values = content["architecture"]["values"]
    table("Decisions", ("decision", "value"), list(values.items()), left=("decision", "value"))
    shown = [[p.part, p.layer, p.size, count_text(p.params), count_text(p.flops)] for p in parts]
    table("Network", ("part", "layer", "output", "params", "flops"), shown, left=("part", "layer", "output"))
    costs = content["costs"]
    line(
        f"params {costs['cost/params']:,.0f}; flops {costs['cost/flops']:,.0f} multiply-adds per image; "
        f"training memory about {costs['cost/memory_mb']:,.1f} MB"
    )


def summary_of(costs: Sequence[dict[str, float]], default: dict[str, float] | None) -> dict[str, Any]:
    """Per cost the smallest, the median and the largest of the points."""
    if not costs:
        return {"default": default, "smallest": None, "median": None, "largest": None}
    ordered = {key: sorted(row[key] for row in costs) for key in costs[0]}
    pick = {"smallest": 0, "median": len(costs) // 2, "largest": -1}
    return {"default": default} | {label: {k: v[i] for k, v in ordered.items()} for label, i in pick.items()}
