"""Names of everything that can be plugged in. A name stands for `module:attribute` and is imported when asked for.

Adding one of ours is one line here; a package of yours adds its own through the entry-point group `nasforge.<kind>`,
and wherever a name is taken `mypackage.mymodule:thing` is taken too.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import distributions
from inspect import Parameter
from typing import Any, get_type_hints

from nasforge.core import signatures
from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.core.importing import forwarded, installed_path, load, source_of
from nasforge.core.signatures import Described

BUILT_IN: dict[str, dict[str, str]] = {
    "strategy": {
        "random": "nasforge.strategies.random:Random",
        "evolution": "nasforge.strategies.evolution:Evolution",
        "nsga2": "nasforge.strategies.nsga2:NSGA2",
        "local_search": "nasforge.strategies.local_search:LocalSearch",
        "reinforce": "nasforge.strategies.reinforce:Reinforce",
        "ppo": "nasforge.strategies.policy:PPO",
        "darts": "nasforge.strategies.differentiable:darts",
        "gdas": "nasforge.strategies.differentiable:gdas",
        "drnas": "nasforge.strategies.differentiable:drnas",
        "cost_aware": "nasforge.strategies.differentiable:cost_aware",
        "spos": "nasforge.strategies.one_shot:spos",
        "enas": "nasforge.strategies.one_shot:enas",
        "optuna": "nasforge.strategies.optuna:OptunaSampler",
        "predictor": "nasforge.strategies.predictor:Predictor",
        "pbt": "nasforge.strategies.pbt:PBT",
        "promotion": "nasforge.strategies.promotion:Promotion",
        "screening": "nasforge.strategies.screening:Screening",
        "joint": "nasforge.strategies.joint:joint",
    },
    "pruner": {
        "asha": "nasforge.pruners.asha:ASHA",
        "median": "nasforge.pruners.median:Median",
    },
    "evaluator": {
        "training": "nasforge.evaluators.training:Training",
        "cross_validation": "nasforge.evaluators.cross_validation:cross_validation",
        "repeated_seeds": "nasforge.evaluators.cross_validation:repeated_seeds",
        "zero_cost": "nasforge.evaluators.zero_cost:ZeroCost",
        "shared_weights": "nasforge.evaluators.shared_weights:SharedWeights",
        "lookup_table": "nasforge.evaluators.table.lookup:LookupTable",
    },
    "proxy": {
        "synflow": "nasforge.evaluators.proxies:synflow",
        "snip": "nasforge.evaluators.proxies:snip",
        "grad_norm": "nasforge.evaluators.proxies:grad_norm",
        "grasp": "nasforge.evaluators.proxies:grasp",
        "fisher": "nasforge.evaluators.proxies:fisher",
        "jacov": "nasforge.evaluators.proxies:jacov",
        "naswot": "nasforge.evaluators.proxies:naswot",
        "zen": "nasforge.evaluators.proxies:zen",
        "swap": "nasforge.evaluators.proxies:swap",
        "swap_regularised": "nasforge.evaluators.proxies:swap_regularised",
        "log_params": "nasforge.evaluators.proxies:log_params",
        "log_flops": "nasforge.evaluators.proxies:log_flops",
        "expressivity": "nasforge.evaluators.az_nas:expressivity",
        "progressivity": "nasforge.evaluators.az_nas:progressivity",
        "trainability": "nasforge.evaluators.az_nas:trainability",
    },
    "runner": {
        "ray_tune": "nasforge.runners.ray_tune:run",
        "local": "nasforge.runners.local:run",
        "simulated": "nasforge.runners.simulated:run",
    },
    "builder": {
        "staged": "nasforge.models.staged:build",
        "mobile": "nasforge.models.mobile:build",
        "nasbench201": "nasforge.models.nasbench201:build",
        "darts_cell": "nasforge.models.darts_cell:build",
        "timm_backbone": "nasforge.models.timm_backbone:build",
    },
    "block": {
        "bottleneck": "nasforge.models.blocks.residual:BottleneckBlock",
        "identity": "nasforge.models.blocks.identity:IdentityBlock",
        "inception": "nasforge.models.blocks.inception:InceptionBlock",
        "inception_factorised": "nasforge.models.blocks.inception:FactorisedInceptionBlock",
        "inverted": "nasforge.models.blocks.inverted:InvertedBlock",
        "network_in_network": "nasforge.models.blocks.plain:NetworkInNetworkBlock",
        "pair": "nasforge.models.blocks.plain:PairBlock",
        "preactivation": "nasforge.models.blocks.residual:PreActivationBlock",
        "residual": "nasforge.models.blocks.residual:ResidualBlock",
        "resnext": "nasforge.models.blocks.residual:ResNeXtBlock",
        "separable": "nasforge.models.blocks.separable:SeparableBlock",
    },
    "exporter": {
        "onnx": "nasforge.exporters.onnx:Onnx",
        "torch_export": "nasforge.exporters.torch_export:TorchExport",
        "safetensors": "nasforge.exporters.safetensors:Safetensors",
    },
    "data": {
        "digits": "nasforge.data.digits:find",
        "addnist": "nasforge.data.composed:addnist",
        "tile": "nasforge.data.composed:tile",
        **dict.fromkeys(
            (
                *("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS", "SVHN", "STL10", "GTSRB"),
                *("Food101", "StanfordCars", "OxfordIIITPet", "FGVCAircraft", "Flowers102", "DTD", "PCAM"),
                "Country211",
            ),
            "nasforge.data.torchvision_sets:find",
        ),
    },
    "relaxation": {
        "softmax": "nasforge.supernet.relaxations:SOFTMAX",
        "gumbel_soft": "nasforge.supernet.relaxations:GUMBEL_SOFT",
        "gumbel_hard": "nasforge.supernet.relaxations:GUMBEL_HARD",
        "dirichlet": "nasforge.supernet.relaxations:DIRICHLET",
    },
    "reference": {
        "resnet": "nasforge.models.reference:resnet_space",
        "lenet": "nasforge.models.textbook.lenet:LENET",
        "alexnet": "nasforge.models.textbook.alexnet:ALEXNET",
        "alexnet_plain": "nasforge.models.textbook.alexnet:PLAIN",
        "vgg": "nasforge.models.textbook.vgg:VGG",
        "vgg_plain": "nasforge.models.textbook.vgg:PLAIN",
        "googlenet": "nasforge.models.textbook.googlenet:GOOGLENET",
        "googlenet_plain": "nasforge.models.textbook.googlenet:PLAIN",
        "resnet_v1": "nasforge.models.textbook.resnet:V1",
        "resnet_v1_50": "nasforge.models.textbook.resnet:V1_50",
        "resnet_v2": "nasforge.models.textbook.resnet:V2",
        "resnet_v2_50": "nasforge.models.textbook.resnet:V2_50",
        "densenet": "nasforge.models.textbook.densenet:DENSENET",
        "mobilenet_v1": "nasforge.models.textbook.mobilenet:V1",
        "mobilenet_v2": "nasforge.models.textbook.mobilenet:V2",
    },
    "task": {
        "classification": "nasforge.tasks.classification:CLASSIFICATION",
    },
    "figure": {},
}
"""Kind -> name -> `module:attribute`; `nasforge/core/protocols.py` says how each kind is called."""

_SPEC_FIRST = ". Make its first argument a nasforge.settings.spec.SearchSpec, and its own options keywords"
_EXPECTED = {"strategy": _SPEC_FIRST, "pruner": _SPEC_FIRST, "evaluator": _SPEC_FIRST}
"""Kind -> the arguments that a plug-in must take, for messages."""


FILLED_IN = {
    "strategy": ("spec",),
    "pruner": ("spec",),
    "evaluator": ("spec",),
    "runner": ("experiment", "evaluator"),
}
"""Kinds with options -> the parameters that are no options: the platform fills them in."""


def _known(kind: str) -> dict[str, str]:
    return {**_plugged_in(kind, tuple(installed_path())), **BUILT_IN[kind]}


def _note_hidden(kind: str, name: str) -> None:
    """Warn, once, where an installed package registers a name that NASForge has itself."""
    hidden = _plugged_in(kind, tuple(installed_path())).get(name)
    if hidden is not None and name in BUILT_IN[kind]:
        warnings.warn(
            f"{kind} '{name}' is NASForge's own; an installed package registers {hidden} under the same name. "
            f"Write {hidden} to use that one",
            stacklevel=1,
        )


@cache
def _plugged_in(kind: str, path: tuple[str, ...]) -> Mapping[str, str]:
    """Return the entry points of installed packages. Reading them is slow, so it is done once per `path`.

    A folder of the user's, such as the working folder, registers nothing: it may be somebody else's.
    """
    values: dict[str, str] = {}
    seen: set[str] = set()
    for package in distributions(path=list(path)):
        entries = package.entry_points.select(group=f"nasforge.{kind}")
        if entries and package.name not in seen:  # the first one on the path is the one that is imported
            seen.add(package.name)
            values |= {entry.name: entry.value for entry in entries}
    return values


def names(kind: str) -> list[str]:
    """Return all registered names of a kind, sorted."""
    return sorted(_known(kind))


def get(kind: str, name: str) -> Any:
    """Return the object of `name`: a registered name, or `module:attribute`.

    Raises:
        TrustError: a file names it, and the user has not agreed to run it (see `nasforge.core.trust`).
        ConfigError: unknown name, or the module cannot be imported.
    """
    known = _known(kind)
    if name in known:
        _note_hidden(kind, name)
        return load(known[name], f"{kind} '{name}'", registered=True)
    if ":" not in name:
        check_name(kind, name)
    return load(name, f"{kind} '{name}'", registered=forwarded(name) in known.values())


def check_name(kind: str, name: str) -> None:
    """Raise ConfigError for a name that is not registered and is no `module:attribute`; this imports nothing."""
    known = _known(kind)
    if name not in known and ":" not in name:
        raise ConfigError(f"unknown {kind} '{name}'; {did_you_mean(name, known)}", kind="unknown", key=kind)


def describe(kind: str, name: str) -> Described:
    """Return the signature and the summary of what `name` stands for.

    They are read from the source of a registered name where that is enough, since many plug-ins import torch or Ray.

    Raises:
        ConfigError: unknown name, the module cannot be imported, or it is no function or class.
    """
    known = _known(kind)
    if name in known:
        module, _, attribute = forwarded(known[name]).partition(":")
        described = None if module in sys.modules else signatures.read(module, attribute, source_of)
        if described is not None:
            return described
    try:
        return signatures.described(get(kind, name))
    except (TypeError, ValueError):
        raise ConfigError(
            f"{kind} '{name}' is not a function or class of a {kind}; write one as docs/howto/plugins.md shows",
            kind="type",
            key=kind,
        ) from None


def options_of(kind: str, name: str) -> dict[str, Any]:
    """Return the options that a user may set, with their defaults; None where there is none."""
    if kind not in FILLED_IN:
        return {}
    defaults = {}
    for parameter in describe(kind, name).signature.parameters.values():
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if named and parameter.name not in FILLED_IN[kind]:
            defaults[parameter.name] = None if parameter.default is parameter.empty else parameter.default
    return defaults


def check_named(kind: str, name: str, options: Mapping[str, Any]) -> None:
    """Check a name and the names of its options early, without importing what it stands for if its source is enough.

    The values of options, and a `module:attribute` of the user's, are checked when it is made.

    Raises:
        ConfigError: unknown name or option.
    """
    check_name(kind, name)
    if name in _known(kind) and options:
        parameters = describe(kind, name).signature.parameters
        if not _takes_any(parameters):
            _check_option_names(kind, name, options, [key for key in parameters if key not in FILLED_IN[kind]])


def check_options(kind: str, name: str, options: Mapping[str, Any], taken: int = 0) -> None:
    """Check the options of what `name` stands for; its first `taken` parameters are NASForge's.

    Raises:
        ConfigError: unknown name or option.
    """
    get(kind, name)
    parameters = describe(kind, name).signature.parameters
    if _takes_any(parameters):
        return
    allowed = list(parameters)[taken:]
    _check_option_names(kind, name, options, allowed)
    _check_types(kind, name, options)


def _takes_any(parameters: Mapping[str, Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _check_option_names(kind: str, name: str, options: Mapping[str, Any], allowed: Sequence[str]) -> None:
    for option in options:
        if option not in allowed:
            raise ConfigError(
                f"{kind} '{name}' has no option '{option}'; {did_you_mean(option, allowed)}", kind="unknown", key=option
            )


def _check_types(kind: str, name: str, options: Mapping[str, Any]) -> None:
    """Check options against the annotations of their parameters, if there are any."""
    from pydantic import TypeAdapter, ValidationError  # only when there is something to check

    factory = get(kind, name)
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory) if options else {}
    for option, value in options.items():
        try:
            if option in hints:
                TypeAdapter(hints[option]).validate_python(value, strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]["msg"].lower()
            raise ConfigError(
                f"{kind} '{name}', option '{option}': {wrong}, got {value!r}", kind="type", key=option
            ) from None


def make(kind: str, name: str, options: Mapping[str, Any], *args: Any) -> Any:
    """Call what `name` stands for with `args` and the user's `options`.

    Raises:
        ConfigError: unknown name or option.
    """
    check_options(kind, name, options, len(args))
    factory = get(kind, name)
    try:
        inspect.signature(factory).bind(*args, **options)
    except TypeError as error:
        raise ConfigError(
            f"{kind} '{name}' does not take NASForge's arguments: {error}{_EXPECTED.get(kind, '')}; write it as "
            "docs/howto/plugins.md shows",
            kind="type",
            key=kind,
        ) from None
    return factory(*args, **options)
