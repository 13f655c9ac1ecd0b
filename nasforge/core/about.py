"""The facts that an evaluator states about itself."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from nasforge.core.errors import ConfigError, described
from nasforge.core.image_counts import ImageCounts
from nasforge.core.ladder import Unit


@dataclass(frozen=True, kw_only=True)
class About:
    """Facts about an evaluator that a search needs before its first trial.

    Example:
        >>> class Judge:
        ...     about = About(metrics=("val/accuracy",))

    Attributes:
        metrics: keys of all metrics that it reports, so that objectives are checked before the search; None: unknown.
        costs: keys of further costs that its `check` gives, such as `cost/watts`, for objectives and constraints.
        data_hash: fingerprint of the data and their division; empty without data. A continued search and every worker
            must see the same one.
        shape: channels, height and width of the networks' inputs; None: it builds no network.
        classes: number of the networks' outputs; None: it builds no network.
        image_counts: numbers of images behind `val/accuracy`, for the remarks of views; None: it has none.
        images: training images of one epoch; 0: it trains nothing.
        device: name of the device that it computes on (`auto`, `cpu`, `cuda:1`); empty: it computes nothing.
        instant: it looks results up, so no work is lost in a crash, and events need not wait for the disk.
        notes: sentences for the user, printed before the first trial.
        unit: what the steps of a trial count.
    """

    metrics: tuple[str, ...] | None = None
    costs: tuple[str, ...] = ()
    data_hash: str = ""
    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    image_counts: ImageCounts | None = None
    images: int = 0
    device: str = ""
    instant: bool = False
    notes: tuple[str, ...] = ()
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        for name in ("metrics", "costs"):
            names = getattr(self, name)
            if isinstance(names, str) or not all(isinstance(one, str) for one in names or ()):
                raise ConfigError(
                    f"About: {name} is {names!r}, expected a tuple of keys such as ('val/accuracy',)",
                    kind="type",
                    key=name,
                )


def about_of(evaluator: object) -> About:
    """Return the facts that an evaluator states about itself.

    Raises:
        ConfigError: it states none, or the property that does fails.
    """
    try:
        about = evaluator.about  # type: ignore[attr-defined]
    except AttributeError as error:
        if inspect.getattr_static(evaluator, "about", None) is not None:  # not that there is none
            kind = type(evaluator)
            raise ConfigError(
                f"evaluator {kind.__module__}:{kind.__qualname__}: its 'about' fails: {described(error)}",
                kind="failed",
                key="about",
            ) from error
        about = None
    if not isinstance(about, About):
        kind = type(evaluator)
        stated = "no attribute 'about'" if about is None else f"an attribute 'about' of type {type(about).__name__}"
        raise ConfigError(
            f"evaluator {kind.__module__}:{kind.__qualname__} has {stated}; expected a nasforge.core.about.About. Add "
            'to the class: about = About(metrics=("val/accuracy",)); docs/howto/plugins.md has all fields',
            kind="type",
            key="about",
        )
    return about
