"""The evaluator that trains nothing: scores fresh networks by zero-cost proxies, many in one job."""

from __future__ import annotations

import ast
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nasforge import registry
from nasforge.core.about import About
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, ConfigError, SearchError, did_you_mean
from nasforge.core.ladder import proxy_metric
from nasforge.core.metrics import PROXY
from nasforge.core.protocols import Report
from nasforge.core.ranges import check_whole
from nasforge.core.trial import CHARGES, Charge, Measure, Proposal, Result, Score, TrainShared
from nasforge.data import load_data
from nasforge.data.augment import normalise
from nasforge.evaluators.guarded import forward_ms, guarded, needed
from nasforge.evaluators.untrained import Undefined
from nasforge.models.costs import count_flops, count_params
from nasforge.models.network import fresh
from nasforge.settings.spec import SearchSpec
from nasforge.training.device import device_of, without_tf32
from nasforge.training.failures import device_lost, is_out_of_memory

IMAGES = 64


class ZeroCost:
    """Evaluator that builds networks with the trial's seed and reports `zc/<proxy>`, more is better.

    All see the same batch of training images, in fp32; nothing is trained, so `steps_done` is 0. A proxy that has no
    number for a network is NaN; where an objective is one of these, or no proxy has any number, the trial fails.
    Decisions of `train.*` and the recipe change nothing here. The other evaluators hand Measures at a rung of proxies
    to this one.
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        device: str = "auto",
        threads: int | None = None,
        proxies: Sequence[str] | None = None,
        images: int = IMAGES,
    ) -> None:
        """Check the settings; load nothing.

        Args:
            spec: the facts of the search. Where the ladder begins with a rung of proxies, those are measured, at every
                rung. The recipe is unused, nothing is trained.
            device: `auto`, `cpu`, `cuda`, `cuda:1`...
            threads: torch threads during a trial; None: as they are.
            proxies: proxies to compute, registered names or `module:function`, with options in brackets
                (`swap_regularised(params=500000)`); None: those in ladder and objectives, else all that need no option.
            images: images in the batch.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        data, objectives = needed(spec.data, "zero_cost"), spec.objectives
        for name, number, least in (("threads", threads, 1), ("images", images, 2)):
            if (name, number) != ("threads", None):
                check_whole(number, f"evaluator 'zero_cost': {name}", least)
        if proxies is None:
            scored = list(spec.ladder[0].proxies)
            reported = set(map(proxy_metric, scored))  # an objective names a proxy without its options
            goals = [goal.metric for goal in objectives if goal.metric.startswith(PROXY)]
            named = [metric.removeprefix(PROXY) for metric in goals if metric not in reported]
            proxies = [*scored, *dict.fromkeys(named)] or _without_options()
        if not proxies:
            raise ConfigError(
                "evaluator 'zero_cost': proxies is empty; name at least one, such as synflow",
                kind="empty",
                key="evaluator.proxies",
            )
        names: dict[str, str] = {}
        for name in proxies:
            proxy_of(name)
            other = names.setdefault(proxy_metric(name), name)
            if other != name:
                raise ConfigError(
                    f"evaluator 'zero_cost': proxies '{other}' and '{name}' are both reported as {proxy_metric(name)}; "
                    "remove one of them",
                    kind="duplicate",
                    key="evaluator.proxies",
                )
        self.space = spec.space
        self.data = data
        self.device = device
        self.threads = threads
        self.proxies = tuple(proxies)
        self.images = images
        self._objective_metrics = tuple(goal.metric for goal in objectives if goal.metric.startswith(PROXY))

    @property
    def about(self) -> About:
        """The facts of this evaluator; loads the data. Notes are on the data."""
        data = load_data(self.data)
        return About(
            metrics=(*map(proxy_metric, self.proxies), *CHARGES),
            data_hash=data.fingerprint,
            shape=data.shape,
            classes=len(data.class_names),
            images=len(data.train),
            device=self.device,
            notes=data.notes,
        )

    def latency_ms(self, architecture: Architecture) -> float:
        """Return the median milliseconds of one image's forward pass on this worker's device, fp32."""
        return forward_ms(self.space, architecture, self.data, self.device, self.threads)

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        """Compute the proxies of all architectures of the proposal; failures come back as results with their cause."""
        began = time.monotonic()
        if isinstance(proposal, TrainShared) or (isinstance(proposal, Measure) and proposal.weights is not None):
            raise SearchError(
                "zero-cost proxies are measured on freshly initialised networks: propose a Score, or a Measure without "
                "weights",
                kind="unsupported",
                key="evaluator",
            )
        device = device_of(self.device)
        advice = "constrain the space or correct its builder"
        # nothing here refers to itself in circles, and a score takes moments
        return guarded(
            lambda: self._measure(proposal, report, device, began),
            device,
            began,
            advice,
            threads=self.threads,
            collect=False,
        )

    def _measure(self, proposal: Measure | Score, report: Report, device: torch.device, began: float) -> Result:
        batch, one = self._batch(device), isinstance(proposal, Measure)
        points = (proposal.architecture,) if isinstance(proposal, Measure) else proposal.architectures
        work = _Work()
        rows: list[dict[str, float]] = []
        reasons: dict[str, tuple[str, bool]] = {}
        for architecture in points:
            row, reasons_of_one = self._scores(architecture, report.seed, batch, work, report.costs if one else {})
            rows.append(row)
            reasons = {**reasons_of_one, **reasons}
        charged = Charge(time.monotonic() - began, work.multiply_adds)
        numbers = [value for row in rows for key, value in row.items() if key.startswith(PROXY)]
        missing = [key for key in self._objective_metrics if one and math.isnan(rows[0].get(key, math.nan))]
        if missing or not any(map(math.isfinite, numbers)):
            told = {n: why for n, why in reasons.items() if not missing or proxy_metric(n) in missing} or reasons
            causes = "; ".join(f"{name}: {reason}" for name, (reason, _) in told.items())
            mistaken = all(undefined for _, undefined in told.values())
            which = f"no number for the objective{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
            return Result.failed(
                "error" if mistaken else "diverged",
                f"{which if missing else 'no proxy has a number for this network'}: {causes}",
                "choose other proxies, or correct the builder",
                charged,
            )
        totals = {"time/worker_s": charged.worker_seconds, "work/multiply_adds": charged.multiply_adds}
        if one:
            return Result("finished", {**rows[0], **totals}, charged=charged)
        return Result("finished", totals, charged=charged, scores=tuple(rows))

    def _batch(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the same normalised training images and labels in every trial."""
        split = load_data(self.data).train
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(self.data.seed))[: self.images]
        images, labels = split.batch(order, device)
        return normalise(images, split.mean, split.std), labels

    def _scores(
        self,
        architecture: Architecture,
        seed: int,
        batch: tuple[Tensor, Tensor],
        work: _Work,
        known: Mapping[str, float],
    ) -> tuple[dict[str, float], dict[str, tuple[str, bool]]]:
        """Return costs and scores; for proxies without a number the reason, and whether the network cannot have one."""
        images, labels = batch
        data = load_data(self.data)
        scores: dict[str, float] = {}
        reasons: dict[str, tuple[str, bool]] = {}
        try:
            network = fresh(self.space, architecture, seed, in_channels=data.shape[0], classes=len(data.class_names))
            network.to(images.device)
        except BuildError as error:
            return dict.fromkeys(map(proxy_metric, self.proxies), math.nan), {"the builder": (str(error), False)}
        costs = dict(known)
        if not {"cost/params", "cost/flops"} <= known.keys():
            costs["cost/params"] = float(count_params(network))
            costs["cost/flops"] = float(count_flops(network, data.shape))
        for name in self.proxies:
            score = math.nan
            try:
                with torch.random.fork_rng([images.device] if images.is_cuda else []), without_tf32(), work:
                    torch.manual_seed(seed)
                    score = float(proxy_of(name)(network, images, labels))
                if not math.isfinite(score):
                    reasons[name] = (f"gave {score}", False)
            except ConfigError:
                raise  # an option of the proxy is wrong for every network
            except Exception as error:  # a user's network or proxy may raise anything
                if is_out_of_memory(error):
                    raise
                if lost := device_lost(error, images.device):
                    raise lost from error
                undefined = isinstance(error, Undefined)
                cause = str(error).partition("\n")[0]
                reasons[name] = (cause if undefined else f"{type(error).__name__}: {cause}", undefined)
            scores[proxy_metric(name)] = score if math.isfinite(score) else math.nan
        return {**costs, **scores}, reasons


def proxy_of(text: str) -> Callable[[nn.Module, Tensor, Tensor], float]:
    """Return the proxy of a name, with its options: `synflow`, `swap_regularised(params=500000)`, `module:function`.

    Raises:
        ConfigError: unknown name or option, an option that is missing, or a text of another form.
    """
    form = re.fullmatch(r"([^()]+)(?:\((.*)\))?", text)
    try:
        call = ast.parse(f"proxy({form[2] or ''})", mode="eval").body if form else None
        one = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args  # no `name()(x=1)`
        arguments = call.keywords if isinstance(call, ast.Call) and one else []
        options = {item.arg: ast.literal_eval(item.value) for item in arguments if item.arg is not None}
    except (SyntaxError, ValueError):
        one = False
    if form is None or not one or len(options) != len(arguments):  # one was `**...`, or there twice
        raise ConfigError(
            f"proxy '{text}' is not of the form name or name(option=number). Write it like "
            "swap_regularised(params=500000)",
            kind="invalid",
            key="proxy",
        )
    name = form[1].strip()
    function: Callable[..., float] = registry.get("proxy", name)
    known = _options_of(name)
    for option in options:
        if option not in known:
            raise ConfigError(
                f"proxy '{name}' has no option '{option}'; {did_you_mean(option, known)}", kind="unknown", key=option
            )
    missing = [option for option, needed in known.items() if needed and option not in options]
    if missing:
        raise ConfigError(
            f"proxy '{name}' needs the option {missing[0]}. Write it like {name}({missing[0]}=500000)",
            kind="missing",
            key=missing[0],
        )
    return partial(function, **options) if options else function


def _options_of(name: str) -> dict[str, bool]:
    """Return a proxy's options, and whether each must be set."""
    parameters = registry.describe("proxy", name).signature.parameters.values()
    return {one.name: one.default is one.empty for one in parameters if one.kind is one.KEYWORD_ONLY}


def _without_options() -> list[str]:
    """Return the registered proxies that need no option."""
    return [name for name in registry.names("proxy") if not any(_options_of(name).values())]


class _Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counter of multiply-adds of convolutions and matrix products while it is entered, backward passes too.

    Attributes:
        multiply_adds: so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiply_adds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.multiply_adds += count(*args, **(kwargs or {}), out_val=output) / 2  # torch counts two operations
        return output
