"""What the Ray runner asks of a cluster: amounts of resources, how many workers fit, addresses, the worker that times
networks. The cluster is a fake, so no Ray starts.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from expecting import raises

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, SearchError
from nasforge.runners.ray_tune import ray
from nasforge.runners.ray_tune.cluster import (
    bundle_of,
    cluster,
    options_of,
    remote_latency,
    resources_of,
    slots_beside_clock,
    slots_of,
)

POINT = Architecture({"model.depth": 2})


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the cluster these nodes."""

    def have(*resources: dict[str, float]) -> None:
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in resources])
        totals: dict[str, float] = {}
        for node in resources:
            totals |= {name: totals.get(name, 0) + amount for name, amount in node.items()}
        monkeypatch.setattr(ray, "cluster_resources", lambda: totals)

    return have


@pytest.mark.parametrize(
    ("amounts", "kind", "named"),
    [
        ({"cpu": 1, "gpu": 1.5}, "range", ("gpu", 1.5)),
        ({"cpu": 1, "gpu": 0.00001}, "range", ("gpu", 0.0001)),
        ({"cpu": 0.00001}, "range", ("cpu", 0.0001)),
        ({"cpu": 1, "NPU": 2.5}, "range", ("NPU", 2.5)),
        ({"cpu": 1, "HPU": 0.5}, "range", ("HPU", 0.5)),  # Ray shares no HPU
        ({"cpu": 1, "object_store_memory": 1e6}, "unsupported", ("object_store_memory", "memory")),
    ],
)
def test_amounts_that_ray_never_places_are_refused(
    nodes: Callable[..., None], amounts: Any, kind: str, named: tuple[Any, ...]
) -> None:
    nodes({"CPU": 8.0, "GPU": 4.0, "NPU": 4.0, "HPU": 4.0, "memory": 1e9, "object_store_memory": 1e9})
    with raises(ConfigError, kind, "runner.resources", "'train_shared'", *named):
        resources_of({"measure": {"cpu": 1}, "train_shared": amounts})


def test_amounts_that_ray_places_are_taken(nodes: Callable[..., None]) -> None:
    nodes({"CPU": 8.0, "GPU": 4.0, "memory": 1e9, "licence": 3.0})
    for amounts in (
        {"cpu": 1.5, "gpu": 2.0},
        {"cpu": 0.0001, "gpu": 0.0001},
        {"cpu": 0, "gpu": 0},
        {"cpu": 1, "memory": 500_000_000, "licence": 1.5},
    ):
        assert resources_of({"measure": amounts})["measure"] == amounts


@pytest.mark.parametrize(
    ("cards", "gpu", "count"),
    [(2, 0.6, 2), (2, 0.4, 4), (2, 0.5, 4), (1, 0.2, 5), (1, 0.1, 10), (1, 1 / 3, 3), (3, 2, 1), (2, 1, 2)],
)
def test_a_share_of_a_gpu_lies_on_one_gpu(nodes: Callable[..., None], cards: int, gpu: float, count: int) -> None:
    amounts = {"cpu": 1, "gpu": gpu}
    nodes({"CPU": 32.0, "GPU": float(cards)})
    assert slots_of(amounts) == count
    nodes({"CPU": 32.0, "GPU": float(cards)}, {"CPU": 32.0, "GPU": float(cards)})
    assert slots_of(amounts) == 2 * count


def test_shares_next_to_the_worker_that_measures_latencies() -> None:
    two, three = {"CPU": 32.0, "GPU": 2.0}, {"CPU": 32.0, "GPU": 3.0}
    assert slots_beside_clock({"cpu": 1, "gpu": 0.6}, [two]) == 1
    assert slots_beside_clock({"cpu": 1, "gpu": 0.4}, [three]) == 4
    assert slots_beside_clock({"cpu": 1, "gpu": 0.2}, [two]) == 5


def test_tasks_and_actors_get_memory_as_ray_takes_it() -> None:
    options = options_of({"cpu": 2, "gpu": 0, "memory": 1e9, "licence": 1})
    assert options == {"num_cpus": 2, "num_gpus": 0, "memory": 1e9, "resources": {"licence": 1}}
    for amounts in ({"cpu": 1, "memory": 1e9}, {"cpu": 1, "gpu": 0.5}):
        options = options_of(amounts)
        ray.remote(**options)(latency)  # Ray checks their types and values
        assert ray._common.utils.resources_from_ray_options(options) == bundle_of(amounts) | (
            {} if "gpu" in amounts else {"GPU": 0}
        )


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "auto"])
def test_ray_client_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")  # of auto
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Tune would wait for ever"))
    with raises(ConfigError, "unsupported", "runner.address", "ray://127.0.0.1:1"), cluster(address):
        pytest.fail("nothing is joined")


def test_a_program_that_has_joined_through_ray_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray._private.client_mode_hook, "is_client_mode_enabled", True)
    with raises(ConfigError, "unsupported", "runner.address"), cluster(None):
        pytest.fail("Tune would wait for ever")


class Clocks:
    """Workers that measure latencies; each answer is a number or an error, and None for one that Ray never starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
        self.answers, self.started, self.killed = list(answers), 0, 0
        monkeypatch.setattr(ray, "remote", lambda **options: lambda actor: SimpleNamespace(remote=self.start))
        monkeypatch.setattr(ray, "get", self.get)
        monkeypatch.setattr(ray, "kill", self.kill)

    def start(self, *arguments: Any) -> Any:
        self.started += 1
        return SimpleNamespace(
            ready=SimpleNamespace(remote=lambda: "ready"), latency_ms=SimpleNamespace(remote=lambda content: "latency")
        )

    def kill(self, clock: Any) -> None:
        self.killed += 1

    def get(self, asked: str, timeout: float | None = None) -> Any:
        if asked == "ready":
            assert timeout, "where there is no room, nobody waits for ever"
            if self.answers[0] is None:
                raise ray.exceptions.GetTimeoutError("Get timed out")
            return True
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def latency(lost: str = "") -> Callable[[Architecture], float]:
    joined = SimpleNamespace(lost=lost, keep_logs=lambda: Path("/logs"))
    return remote_latency(None, {"cpu": 1, "gpu": 0.5}, joined)  # type: ignore[arg-type]


def gone() -> Exception:
    error: Exception = ray.exceptions.ActorDiedError()
    error.error_msg = "The actor died unexpectedly.\n\tclass_name: _Clock\nIts node has died."  # type: ignore[attr-defined]
    return error


def test_a_lost_clock_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch, 1.0, gone(), ray.exceptions.ActorUnavailableError("no answer", b"1" * 16), 2.0, 3.0)
    measure = latency()
    assert [measure(POINT) for _ in range(3)] == [1.0, 2.0, 3.0]
    assert (clocks.started, clocks.killed) == (3, 2)


def test_the_third_clock_that_is_lost_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch, gone(), gone(), gone())
    with raises(SearchError, "failed", None, "latencies", "3 times", "Its node has died", "/logs"):
        latency()(POINT)
    assert clocks.started == 3


def test_a_clock_that_finds_no_room_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    Clocks(monkeypatch, gone(), None)
    with raises(SearchError, "failed", None, "latencies", "300 s"):
        latency()(POINT)


def test_a_clock_that_cannot_load_the_evaluator_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = ray.exceptions.RayTaskError("__init__", "Traceback\nModuleNotFoundError: No module named 'mine'", None)
    clocks = Clocks(monkeypatch, ray.exceptions.ActorDiedError(cause))
    with raises(SearchError, "failed", None, "No module named 'mine'"):
        latency()(POINT)
    assert clocks.started == 1


def test_a_clock_that_is_lost_with_ray_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch, gone())
    with raises(SearchError, "failed", None, "the raylet has ended"):
        latency("the raylet has ended")(POINT)
    assert clocks.started == 1
