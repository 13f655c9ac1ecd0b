"""Reaching a Ray cluster, and what its nodes have to offer."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import ray
from ray.job_config import JobConfig

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, SearchError, did_you_mean
from nasforge.core.importing import Places, adopt, places, python_path

DEFAULT_RESOURCES: dict[str, dict[str, float]] = {"measure": {"cpu": 1}, "train_shared": {"cpu": 1}}


def connect(address: str | None, cpus: int | None, logical_gpus: int | None) -> bool:
    """Reach Ray; returns whether it was started here (and is to be shut down here)."""
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address:
            ray.init(address=address, job_config=_job_config(), logging_level=logging.ERROR, log_to_driver=False)
        else:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of this user on this machine only
            os.environ.update(python_path())
            ray.init(address="local", num_cpus=cpus, num_gpus=logical_gpus, job_config=_job_config(), **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at '{address}'" if address else "Ray on this machine"
        raise SearchError(f"{where} cannot be reached: {error}. Check --address, or use --runner local") from None
    return True


def _job_config() -> JobConfig:
    """Settings that keep Ray from putting the working folder first on its workers' `sys.path`.

    A user's file `profile.py` there would hide Python's own. `nasforge.core.importing.adopt` puts the folder last.
    """
    return JobConfig(_client_job=True)


def resources_of(given: Mapping[str, Mapping[str, float]] | None) -> dict[str, dict[str, float]]:
    """What each kind of job takes: the user's wish, else a CPU and, where there are GPUs, a GPU.

    Raises:
        ConfigError: unknown kind, not a number, or more than any node has.
    """
    cluster = ray.cluster_resources()
    wanted = {kind: dict(amounts) for kind, amounts in DEFAULT_RESOURCES.items()}
    if cluster.get("GPU", 0) >= 1:
        wanted = {kind: {**amounts, "gpu": 1} for kind, amounts in wanted.items()}
    for kind, amounts in (given or {}).items():
        if kind not in wanted:
            raise ConfigError(f"runner: resources for unknown kind of job '{kind}'; {did_you_mean(kind, wanted)}")
        if not isinstance(amounts, Mapping):
            raise ConfigError(f"runner: resources of '{kind}' must be a mapping such as {{cpu: 1, gpu: 0.25}}")
        for name, amount in amounts.items():
            if isinstance(amount, bool) or not isinstance(amount, (int, float)) or amount < 0:
                raise ConfigError(
                    f"runner: resources of '{kind}': {name} must be a number of at least 0, got {amount!r}"
                )
        wanted[kind] = dict(amounts)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, amounts in wanted.items():
        bundle = bundle_of(amounts)
        if not any(all(node.get(name, 0) >= amount for name, amount in bundle.items()) for node in nodes):
            largest = {name: max(node.get(name, 0) for node in nodes) for name in bundle}
            raise ConfigError(f"runner: a '{kind}' job asks for {bundle}, but the largest node has {largest}")
    return wanted


def bundle_of(amounts: Mapping[str, float]) -> dict[str, float]:
    """Ray's names for the amounts, without zeros."""
    names = {"cpu": "CPU", "gpu": "GPU"}
    return {names.get(name, name): amount for name, amount in amounts.items() if amount > 0} or {"CPU": 0.01}


def slots_of(amounts: Mapping[str, float]) -> int:
    """How many such workers the living nodes hold."""
    bundle = bundle_of(amounts)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, sum(int(min(node.get(n, 0) / amount + 1e-9 for n, amount in bundle.items())) for node in nodes))


def options_of(amounts: Mapping[str, float]) -> dict[str, Any]:
    """The amounts as Ray's tasks and actors take them."""
    bundle = bundle_of(amounts)
    others = {name: amount for name, amount in bundle.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0), "resources": others}


def remote_latency(shipped: Any, amounts: Mapping[str, float]) -> Any:
    """Latency on a worker of the same kind that does nothing else."""
    clock = ray.remote(**options_of(amounts))(_Clock).remote([shipped], places())

    def latency(architecture: Architecture) -> float:
        return float(ray.get(clock.latency_ms.remote(architecture.to_json())))

    return latency


class _Clock:
    def __init__(self, shipped: list[Any], found: Places) -> None:
        adopt(found)
        self._evaluator = ray.get(shipped[0])

    def latency_ms(self, content: dict[str, Any]) -> float:
        return float(self._evaluator.latency_ms(Architecture.from_json(content)))
