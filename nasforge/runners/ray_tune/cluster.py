"""Reaching a Ray cluster, and what its nodes have to offer."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource, get_all_accelerator_resource_names
from ray._private.client_mode_hook import client_mode_should_convert
from ray._private.services import get_ray_address_from_environment

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, NasforgeError, SearchError, did_you_mean
from nasforge.core.gpu_share import lend
from nasforge.core.importing import Places, adopt, places, python_path
from nasforge.core.ranges import check_number
from nasforge.runners.ray_tune.local_cluster import job_config, local_cluster, shutdown, sigterm_is_ours, why_lost
from nasforge.runners.ray_tune.private_folder import PrivateFolder, private_folder
from nasforge.runners.resources import KINDS, UNITS, Resources, asked_for, workers_on

_ANSWER_S = 10.0
"""Seconds in which a cluster must accept a connection."""
_CLIENT = "ray://"
"""Beginning of the addresses of Ray Client."""
_RAYS_NAMES = {"cpu": "CPU", "gpu": "GPU"}
_CLOCKS = 3
"""Number of workers that may be started, one after the other, to measure latencies."""
_NEXT_CLOCK_S = 300.0
"""Seconds in which a cluster must place and start another worker that measures latencies."""


class Cluster:
    """The Ray that a runner uses.

    Attributes:
        scratch: temporary folder of this driver.
    """

    def __init__(self, folder: PrivateFolder, *, started: bool) -> None:
        self._folder = folder
        self._started = started
        self.scratch = folder.path

    @property
    def lost(self) -> str:
        """Reason why this Ray ended, for the user; empty while it runs, and for one that was not started here."""
        return why_lost() if self._started else ""

    def keep_logs(self) -> Path:
        """Return the folder of Ray's logs, and keep it for the user to read."""
        self._folder.keep = True
        return self.scratch / "r/session_latest/logs" if self._started else Path("/tmp/ray/session_latest/logs")  # noqa: S108


@contextmanager
def cluster(address: str | None, cpus: int | None = None, logical_gpus: int | None = None) -> Iterator[Cluster]:
    """Reach Ray for the block: one that this process has joined before, a running one, or else one started here.

    Args:
        address: of a running cluster; its authentication is as the user's environment says. None starts one.
        cpus: of a Ray started here.
        logical_gpus: of a Ray started here.

    Raises:
        ConfigError: it is to be reached through Ray Client.
        SearchError: the cluster cannot be reached.
    """
    with private_folder() as folder:
        if ray.is_initialized():
            if client_mode_should_convert():
                raise _no_client("this program has joined its cluster through")
            yield Cluster(folder, started=False)
            return
        started = _joined(address) if address else _started_here(folder.path, cpus, logical_gpus)
        with started:
            yield Cluster(folder, started=not address)


@contextmanager
def _joined(address: str) -> Iterator[None]:
    with _explained(f"the Ray cluster at '{address}' cannot be reached", "Check --address"), sigterm_is_ours():
        _check_answers(address)
        ray.init(address=address, job_config=job_config(), logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield
    finally:
        shutdown()


def _no_client(what: str) -> ConfigError:
    """Make the error for Ray Client, with which Tune would run elsewhere, with empty copies of our searcher."""
    return ConfigError(
        f"runner: {what} Ray Client, through which NASForge cannot work; run the command on a node of the cluster with "
        "--address auto, or submit it with ray job submit",
        kind="unsupported",
        key="runner.address",
    )


def _check_answers(address: str) -> None:
    """Connect to the address for a moment: where nobody answers, Ray waits for more than a minute.

    Raises:
        ConfigError: the address is one of Ray Client.
        ConnectionError: nobody accepts a connection at this host and port, or there is no such host.
    """
    place = get_ray_address_from_environment(address, None) if address == "auto" else address
    if place.startswith(_CLIENT):
        raise _no_client(f"the address '{place}' leads to")
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray says what is wrong with it
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S):
            pass
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConnectionError(f"nobody answers at host {host}, port {port} ({reason})") from None


@contextmanager
def _started_here(folder: Path, cpus: int | None, logical_gpus: int | None) -> Iterator[None]:
    os.environ.update(python_path())  # a user's own builder, here and there
    with ExitStack() as stack:
        with _explained("Ray on this machine does not start", "Run the same command again"):
            stack.enter_context(local_cluster(folder, cpus, logical_gpus))
        yield


@contextmanager
def _explained(what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except NasforgeError:
        raise
    except Exception as error:  # Ray has no class of its own for what goes wrong while it starts
        cause = str(error).strip().rstrip(".") or type(error).__name__
        raise SearchError(f"{what}: {cause}. {advice}, or use --runner local", kind="failed") from None


def check_device(device: str, *, grouped: bool = False) -> None:
    """Refuse a device that a worker cannot have: a worker sees the GPUs that Ray gives it, numbered from 0.

    Args:
        device: name of a device.
        grouped: several workers train one network; they see the same GPUs.

    Raises:
        ConfigError: the name has a GPU's number, which in a worker stands for another GPU or none.
    """
    numbered = re.fullmatch(r"cuda:(\d+)", device)
    if numbered and (grouped or int(numbered[1])):
        raise ConfigError(
            f"device '{device}' is not for Ray workers, since Ray chooses the GPU of each; set device cuda or auto. To "
            f"choose among this machine's GPUs, set CUDA_VISIBLE_DEVICES={numbered[1]}, or use --runner local",
            kind="conflict",
            key="device",
        )


def resources_of(overrides: Resources | None, device: str = "auto") -> dict[str, dict[str, float]]:
    """Return the resources of each kind of job: the user's, else a CPU and, where there are GPUs, a GPU.

    Args:
        overrides: the user's, see `asked_for`.
        device: what the jobs compute on; on `cpu` they get no GPU by default.

    Raises:
        ConfigError: unknown kind, not a number, an amount that Ray never places, or more than any node has.
    """
    cluster = ray.cluster_resources()
    on_gpu = cluster.get("GPU", 0) >= 1 and device != "cpu"
    by_kind: dict[str, dict[str, float]] = {kind: {"cpu": 1, **({"gpu": 1} if on_gpu else {})} for kind in KINDS}
    for kind, amounts in asked_for(overrides).items():
        if kind not in by_kind:
            raise ConfigError(
                f"runner: resources for unknown kind of job '{kind}'; {did_you_mean(kind, by_kind)}",
                kind="unknown",
                key="runner.resources",
            )
        if not isinstance(amounts, Mapping):
            raise ConfigError(
                f"runner: resources of '{kind}' must be a mapping such as {{cpu: 1, gpu: 0.25}}, got {amounts!r}",
                kind="type",
                key="runner.resources",
            )
        for name, amount in amounts.items():
            check_number(amount, f"runner: resources of '{kind}': {name}", least=0)
            _check_amount(kind, name, amount)
        by_kind[kind] = dict(amounts)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, amounts in by_kind.items():
        bundle = bundle_of(amounts)
        if not any(all(node.get(name, 0) >= amount for name, amount in bundle.items()) for node in nodes):
            largest = {name: max(node.get(name, 0) for node in nodes) for name in bundle}
            raise ConfigError(
                f"runner: a '{kind}' job asks for {bundle}, but the largest node has {largest}; ask for less",
                kind="range",
                key="runner.resources",
            )
    return by_kind


def _check_amount(kind: str, name: str, amount: float) -> None:
    """Refuse an amount with which Ray starts no worker: Tune would end with a traceback, or wait.

    Raises:
        ConfigError: too small, neither whole devices nor a share of one, or `object_store_memory`.
    """
    where, resource = f"runner: resources of '{kind}': {name}", _RAYS_NAMES.get(name, name)
    if resource == "object_store_memory":
        raise ConfigError(
            f"{where} cannot be reserved for a worker; remove it, or set memory (bytes) instead",
            kind="unsupported",
            key="runner.resources",
        )
    problem, device = "", resource in get_all_accelerator_resource_names()
    if 0 < amount * UNITS < 1:
        problem = f"must be 0 or at least {1 / UNITS:g}, the smallest amount that Ray counts, got {amount}"
    elif device and amount > 1 and amount % 1:
        problem = f"must be a whole number or a share of one device below 1, got {amount}"
    elif device and amount and resource != "GPU":
        valid, reason = get_accelerator_manager_for_resource(resource).validate_resource_request_quantity(amount)
        problem = "" if valid else f"must be an amount that Ray allows, got {amount}: {reason}"
    if problem:
        raise ConfigError(f"{where} {problem}", kind="range", key="runner.resources")


def bundle_of(amounts: Mapping[str, float]) -> dict[str, float]:
    """Return the amounts under Ray's names, without zeros."""
    return {_RAYS_NAMES.get(name, name): amount for name, amount in amounts.items() if amount > 0} or {"CPU": 0.01}


def slots_of(amounts: Mapping[str, float]) -> int:
    """Return how many such workers the living nodes hold."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, sum(_held(node, bundle_of(amounts)) for node in nodes))


def _held(node: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    """Return how many workers of these resources a node holds."""
    return workers_on(node, bundle, get_all_accelerator_resource_names())


def clock_resources(amounts: Mapping[str, float]) -> dict[str, float]:
    """Return the resources of the worker that measures latencies: whole GPUs, which it shares with no training."""
    return {name: math.ceil(amount) if name == "gpu" else amount for name, amount in amounts.items()}


def slots_beside_clock(amounts: Mapping[str, float], nodes: Sequence[Mapping[str, float]] | None = None) -> int:
    """Return how many workers there is room for next to the one that measures latencies, wherever Ray places it.

    Args:
        amounts: resources of a worker.
        nodes: resources of each node; None: the living nodes of this cluster.
    """
    if nodes is None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    bundle, taken = bundle_of(amounts), bundle_of(clock_resources(amounts))
    slots = []
    for place, node in enumerate(nodes):
        if _held(node, taken):
            rest = {name: amount - taken.get(name, 0) for name, amount in node.items()}
            others = [*nodes[:place], *nodes[place + 1 :]]
            slots.append(sum(_held(each, bundle) for each in (rest, *others)))
    return min(slots, default=0)


def options_of(amounts: Mapping[str, float]) -> dict[str, Any]:
    """Return the amounts as Ray's tasks and actors take them."""
    bundle = bundle_of(amounts)
    return {
        "num_cpus": bundle.pop("CPU", 0),
        "num_gpus": bundle.pop("GPU", 0),
        "memory": bundle.pop("memory", None),
        "resources": bundle,
    }


def remote_latency(shipped: Any, amounts: Mapping[str, float], joined: Cluster) -> Callable[[Architecture], float]:
    """Start an otherwise idle worker with whole GPUs, and return what measures latencies there.

    A worker that is lost, for instance with its node, is replaced. The third loss ends the search.

    Args:
        shipped: reference to the evaluator.
        amounts: resources of a worker that trains.
        joined: the Ray in use.
    """
    taken = clock_resources(amounts)
    actor = ray.remote(**options_of(taken))(_Clock)

    def start() -> Any:
        return actor.remote([shipped], places(), taken.get("gpu", 0))

    clock, started = start(), 1

    def latency(architecture: Architecture) -> float:
        nonlocal clock, started
        while True:
            try:
                if started > 1:  # the first one has room, as `slots_beside_clock` counted
                    ray.get(clock.ready.remote(), timeout=_NEXT_CLOCK_S)
                return float(ray.get(clock.latency_ms.remote(architecture.to_json())))
            except ray.exceptions.RayTaskError as error:
                raise as_ours(error) from error
            except ray.exceptions.RayError as error:
                if joined.lost:
                    raise SearchError(joined.lost, kind="failed") from error
                if end := _end_of_clocks(error, started):
                    logs = f"Read Ray's logs in {joined.keep_logs()}; the same command continues the search"
                    raise SearchError(f"{end}. {logs}", kind="failed") from error
                ray.kill(clock)  # one that is only out of reach must not keep its GPU
                clock, started = start(), started + 1

    return latency


def _end_of_clocks(error: BaseException, started: int) -> str:
    """Return why no other worker that measures latencies is started after this error; empty if one is."""
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return (
            "the worker that measures latencies was lost, and the cluster has started no other one within "
            f"{_NEXT_CLOCK_S:g} s"
        )
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")] or [""]
    if getattr(error, "actor_init_failed", False):  # the last line of a traceback
        return f"the worker that measures latencies does not start: {lines[-1].rstrip('.')}"
    if started >= _CLOCKS:  # the line after `The actor died unexpectedly`
        reason = lines[min(1, len(lines) - 1)].rstrip(".")
        return f"the worker that measures latencies was lost {started} times, the last time with the message: {reason}"
    return ""


def as_ours(error: BaseException) -> BaseException:
    """Return the user's error that was raised on a worker; otherwise Ray's wrapper."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, NasforgeError) else error


def lend_gpus(gpus: float) -> None:
    """Tell this worker's process which share of the GPUs it has: it sees all of them, even if it has none.

    Args:
        gpus: what it asked Ray for.
    """
    lend(gpus if ray.get_gpu_ids() else 0.0)


class _Clock:
    def __init__(self, shipped: list[Any], modules: Places, gpus: float) -> None:
        adopt(modules)
        lend_gpus(gpus)
        self._evaluator = ray.get(shipped[0])

    def ready(self) -> bool:
        return True

    def latency_ms(self, content: dict[str, Any]) -> float:
        return float(self._evaluator.latency_ms(Architecture.from_json(content)))
