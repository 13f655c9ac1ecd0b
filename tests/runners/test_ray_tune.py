"""The Ray runner: equal to the local one, across workers, logical GPUs and nodes; kills; what a user does wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from expecting import raises

from nasforge.core.about import About
from nasforge.core.errors import ConfigError, JournalError, SearchError
from nasforge.core.events import Asked, Event, Extended, Told
from nasforge.core.protocols import Report
from nasforge.core.trial import Proposal, Result
from nasforge.experiment.journal import read_events
from nasforge.runners import local
from nasforge.testing.kills import campaign, command_line, descendants
from nasforge.testing.toys import Planted, toy_config, toy_experiment

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A Ray of two CPUs and one GPU that is not there, shared by the tests of this file."""
    from nasforge.runners.ray_tune import ray
    from nasforge.runners.ray_tune.cluster import cluster as started

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    with started(None, 2, 1) as joined:
        assert joined.lost == ""
        yield
    assert not joined.scratch.exists() and "RAY_AUTH_TOKEN" not in os.environ


def run(experiment: Any, evaluator: Any, **options: Any) -> None:
    from nasforge.runners.ray_tune import run as run_

    run_(experiment, evaluator, **{"resources": {"measure": {"cpu": 1}}, **options})


@dataclass
class Where(Planted):
    """`Planted` that leaves a line with its process, GPUs and threads in the trial's folder."""

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        seen = {"process": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
        (report.folder / "where.json").write_text(json.dumps(seen))
        return super().__call__(proposal, report)


def seen(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.rglob("where.json")]


def asks_and_tells(folder: Path) -> list[Event]:
    return [event for event in read_events(folder) if isinstance(event, (Asked, Told))]


@pytest.mark.parametrize(("strategy", "pruner"), [("evolution", "asha"), ("local_search", "none")])
def test_one_worker_equals_the_local_runner(tmp_path: Path, strategy: str, pruner: str) -> None:
    config = toy_config(tmp_path, strategy=strategy, pruner=pruner, name="ray")
    with toy_experiment(config) as experiment:
        run(experiment, Planted(), max_concurrent_trials=1)
    here = toy_config(tmp_path, strategy=strategy, pruner=pruner, name="local")
    with toy_experiment(here) as experiment:
        local.run(experiment, Planted())
        assert experiment.state.counts()["finished"] > 0
    assert asks_and_tells(config.folder) == asks_and_tells(here.folder)


def test_two_workers_are_kept_from_trial_to_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nasforge.runners.ray_tune import bridge

    monkeypatch.setattr(bridge, "WARM_UP_S", 600.0)  # on a busy machine, too, no worker begins before the other
    config = toy_config(tmp_path, budget={"trials": 16}, pruner="asha")
    with toy_experiment(config) as experiment:
        run(experiment, Where(seconds=0.05))
        counts = experiment.state.counts()
    assert counts["finished"] + counts["pruned"] == 16 and counts["pruned"] > 0
    assert len(seen(config.folder)) == 16
    assert len({line["process"] for line in seen(config.folder)}) == 2


@pytest.mark.slow
def test_fractions_of_a_logical_gpu(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 6})
    with toy_experiment(config) as experiment:
        run(experiment, Where(seconds=0.1), resources={"measure": {"cpu": 0.5, "gpu": 0.5}})
        assert experiment.state.counts()["finished"] == 6
    assert {line["gpus"] for line in seen(config.folder)} == {"0"}
    assert len({line["process"] for line in seen(config.folder)}) == 2, "half a GPU each: two workers side by side"


@dataclass
class Device(Planted):
    """`Planted` that leaves a line with the device that `auto` is, on a machine whose workers see a GPU that works."""

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        import torch

        from nasforge.core.gpu_share import lent
        from nasforge.training import device

        torch.cuda.is_available, device._try = lambda: True, lambda device: None
        torch.cuda.set_per_process_memory_fraction = lambda share, index: None
        device._reason_against.cache_clear()
        seen = {"auto": device.device_of("auto").type, "lent": lent()}
        (report.folder / "where.json").write_text(json.dumps(seen))
        return super().__call__(proposal, report)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [({"cpu": 1}, {"auto": "cpu", "lent": 0}), ({"cpu": 1, "gpu": 1}, {"auto": "cuda", "lent": 1})],
)
def test_auto_is_a_gpu_only_in_workers_that_asked_for_one(tmp_path: Path, resources: Any, expected: Any) -> None:
    config = toy_config(tmp_path, budget={"trials": 2})
    with toy_experiment(config) as experiment:
        run(experiment, Device(), resources={"measure": resources})
    assert seen(config.folder) == [expected] * 2


def test_resources_of_a_worker() -> None:
    from nasforge.runners.ray_tune.cluster import clock_resources, resources_of, slots_beside_clock

    cpu, both = {"cpu": 1}, {"cpu": 1, "gpu": 1}
    assert resources_of(None) == {"measure": both, "train_shared": both}
    assert resources_of(None, "cpu") == {"measure": cpu, "train_shared": cpu}
    quarter = {"cpu": 1, "gpu": 0.25}
    assert resources_of({"measure": quarter}) == {"measure": quarter, "train_shared": quarter}
    assert resources_of({"measure": quarter, "train_shared": both})["train_shared"] == both
    assert clock_resources(quarter) == both
    one_gpu, two_gpus = {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 2.0}
    assert slots_beside_clock(quarter, [one_gpu]) == 0, "the clock has the card for itself"
    assert slots_beside_clock(quarter, [two_gpus]) == 4
    assert slots_beside_clock(quarter, [one_gpu, two_gpus]) == 8
    assert slots_beside_clock(cpu, [one_gpu]) == 7


def test_a_gpu_with_a_number_is_refused() -> None:
    from nasforge.runners.ray_tune.cluster import check_device

    for device in ("auto", "cpu", "cuda", "cuda:0"):
        check_device(device)
    with raises(ConfigError, "conflict", "device", "cuda:1"):
        check_device("cuda:1")
    with raises(ConfigError, "conflict", "device", "cuda:0"):
        check_device("cuda:0", grouped=True)


def test_workers_that_share_a_gpu_train_no_network_together() -> None:
    from nasforge.runners.ray_tune.trainings import side_by_side

    options = {"resources": {"measure": {"cpu": 0.5, "gpu": 0.5}}, "workers_per_network": 2}
    with raises(ConfigError, "conflict", "runner.resources", "0.5"):
        list(side_by_side(lambda item, progress: "", [1], lambda *told: None, **options))


def test_killed_worker_is_replaced_and_its_trial_tried_again(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 6})
    with toy_experiment(config) as experiment:
        run(experiment, Planted(crash=(2,), fail=(3,)))
        state = experiment.state
    assert state.counts()["finished"] == 5
    assert state.trials[2].attempts == 2 and state.trials[2].status == "finished"
    error = state.trials[3].result.error  # type: ignore[union-attr]
    assert error and error.cause == "error" and "planted failure of trial 3" in error.message


@dataclass
class LosesItsGPU(Planted):
    """Raises what torch raises after a failed assertion on a GPU, in the first attempt at trial 2 or in all at 3."""

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        import torch

        if report.number == 3 or (report.number == 2 and report.attempt == 1):
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return super().__call__(proposal, report)


def test_a_worker_whose_gpu_has_failed_ends_and_another_one_tries_its_trial_again(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 6})
    with toy_experiment(config) as experiment:
        run(experiment, LosesItsGPU(), max_concurrent_trials=1)
        state = experiment.state
    assert state.counts()["finished"] == 5
    assert state.trials[2].attempts == 2 and state.trials[2].status == "finished"
    error = state.trials[3].result.error  # type: ignore[union-attr]
    assert error and error.cause == "crash" and "device-side assert triggered" in error.message
    assert (config.folder / "artifacts/2/attempt-1/device_lost.txt").is_file()


class OnlyHere:
    """An evaluator that a worker cannot load."""

    about = About(metrics=("val/accuracy",))

    def __reduce__(self) -> Any:
        return _only_in, (os.getpid(),)


def _only_in(process: int) -> OnlyHere:
    if os.getpid() != process:
        raise ModuleNotFoundError("No module named 'my_secret_package'")
    return OnlyHere()


def test_worker_that_cannot_import_burns_no_trial(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    with toy_experiment(config) as experiment, raises(SearchError, "failed", None, "my_secret_package"):
        run(experiment, OnlyHere())
    assert [event.kind for event in read_events(config.folder)] == ["header"]


@dataclass
class Stillborn(Planted):
    """Kills the process that loads it, as often as `times` says."""

    count: Path | None = None
    times: int = 1

    def __reduce__(self) -> Any:
        return _stillborn, (os.getpid(), self.count, self.times)


def _stillborn(driver: int, count: Path, times: int) -> Planted:
    with count.open("a") as file:
        file.write("x")
    if os.getpid() != driver and count.stat().st_size <= times:
        os.kill(os.getpid(), 9)
    return Planted()


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_starts_is_replaced(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 4})) as experiment:
        run(experiment, Stillborn(count=tmp_path / "count"))
        assert experiment.state.counts()["finished"] == 4
        assert all(trial.attempts == 1 for trial in experiment.state.trials.values())


@pytest.mark.slow
def test_workers_that_always_die_while_they_start_end_the_search(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    with toy_experiment(config) as experiment, raises(SearchError, "failed", None, 5):
        run(experiment, Stillborn(count=tmp_path / "count", times=1000))
    assert [event.kind for event in read_events(config.folder)] == ["header"]


INTRUDER = """
import sys
import ray
from pathlib import Path
path = Path(sys.argv[2])
ray.init(address=sys.argv[1], log_to_driver=False, _node_ip_address="127.0.0.1")
ray.get(ray.remote(lambda: path.write_text("was here")).remote())
"""


def test_nobody_without_the_token_can_use_the_cluster(tmp_path: Path) -> None:
    """Neither joins nor runs a task; and the token is only in the environment of Ray's processes."""
    from nasforge.runners.ray_tune import ray

    address, token = ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    clean |= {"HOME": str(tmp_path)}
    soon = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # gives up after the first refusal
    keys = {
        "none": {**soon, "RAY_AUTH_MODE": "disabled"},
        "wrong": {**soon, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * len(token)},
        "right": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
    }
    intruders = {
        name: subprocess.Popen(
            [sys.executable, "-c", INTRUDER, address, str(tmp_path / name)],
            env={**clean, **key},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, key in keys.items()
    }
    messages = {name: intruder.communicate(timeout=400)[1] for name, intruder in intruders.items()}
    assert [path.name for path in sorted(tmp_path.iterdir()) if path.is_file()] == ["right"], messages
    assert intruders["none"].returncode and "uthenticat" in messages["none"]
    assert intruders["wrong"].returncode and "uthenticat" in messages["wrong"]


def test_the_token_is_nowhere_to_be_read_and_ray_listens_on_loopback_alone(tmp_path: Path) -> None:
    from nasforge.runners.ray_tune import ray

    token = os.environ["RAY_AUTH_TOKEN"]
    config = toy_config(tmp_path, budget={"trials": 2})
    with toy_experiment(config) as experiment:
        run(experiment, Planted())
    session = Path(ray._private.worker._global_node.get_session_dir_path()).parent
    assert session.parent.stat().st_mode & 0o077 == 0, "only the user may enter"
    for place in (tmp_path, session):
        for folder, _, names in os.walk(place):
            for path in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):  # removed meanwhile
                    assert not path.is_file() or token not in path.read_text(errors="replace"), path
    processes = [os.getpid(), *descendants(os.getpid())]
    assert len(processes) > 3
    for process in processes:
        assert token not in command_line(process)
    addresses = {address for process in processes for address in listening(process)}
    assert addresses and addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}, addresses


def listening(process: int) -> Iterator[str]:
    """Addresses, in hexadecimal, at which a process waits for connections."""
    sockets = set()
    try:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                sockets.add(str(descriptor.readlink()))
    except OSError:  # the process has ended
        return
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                yield fields[1].partition(":")[0]


@pytest.mark.slow
def test_what_kills_the_evaluators_thread_is_a_failure(tmp_path: Path) -> None:
    class Exits(Planted):
        def __call__(self, proposal: Proposal, report: Report) -> Result:
            if report.number == 1:
                raise SystemExit(3)
            return super().__call__(proposal, report)

    with toy_experiment(toy_config(tmp_path, budget={"trials": 5})) as experiment:
        run(experiment, Exits())
        state = experiment.state
    messages = {trial.number: trial.result.error.message for trial in state.failures()}  # type: ignore[union-attr]
    assert "SystemExit: 3" in messages[1] and state.counts()["finished"] == 4


@pytest.mark.slow
def test_an_evaluator_that_returns_nothing_ends_the_search(tmp_path: Path) -> None:
    class Nothing(Planted):
        def __call__(self, proposal: Proposal, report: Report) -> Result:
            return None  # type: ignore[return-value]

    config = toy_config(tmp_path)
    with toy_experiment(config) as experiment, raises(SearchError, "failed", None, "NoneType"):
        run(experiment, Nothing())
    assert experiment.state.counts()["finished"] == 0


@pytest.mark.slow
def test_a_cluster_that_is_busy_elsewhere_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nasforge.runners.ray_tune import bridge, ray

    @ray.remote(num_cpus=1)
    class Other:
        def here(self) -> bool:
            return True

    other = Other.remote()
    assert ray.get(other.here.remote())
    monkeypatch.setattr(bridge, "WARM_UP_S", 2.0)
    with toy_experiment(toy_config(tmp_path, budget={"trials": 6})) as experiment:
        run(experiment, Planted(), resources={"measure": {"cpu": 0.5}})
        assert experiment.state.counts()["finished"] == 6
    ray.kill(other)


@pytest.mark.slow
def test_worker_with_other_data_is_refused(tmp_path: Path) -> None:
    class Data(Planted):
        about = About(data_hash="other")

    with toy_experiment(toy_config(tmp_path)) as experiment, raises(SearchError, "failed", None, "data"):
        run(experiment, Data())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resources": {"measure": {"cpu": 64}}}, ("range", None, {"CPU": 64}, {"CPU": 2.0})),
        ({"resources": {"mesure": {"cpu": 1}}}, ("unknown", None, "mesure", "'measure'")),
        ({"resources": {"measure": {"gpu": -1}}}, ("range", None, -1)),
        ({"max_concurrent_trials": 0}, ("range", "runner.max_concurrent_trials", 0)),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, options: dict[str, Any], expected: Any) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment, raises(ConfigError, *expected):
        run(experiment, Planted(), **options)


def test_an_error_in_a_callback_comes_out_and_nothing_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(tmp_path)
    with toy_experiment(config) as experiment:
        really = experiment.tell

        def tell(number: int, attempt: int, result: Result) -> None:
            if number == 4:
                raise JournalError("no space left on device")
            really(number, attempt, result)

        monkeypatch.setattr(experiment, "tell", tell)
        with raises(JournalError, "invalid", None, "no space left"):
            run(experiment, Planted(diary=tmp_path / "diary.txt"))
    with toy_experiment(config) as experiment:
        run(experiment, Planted(diary=tmp_path / "diary.txt"))
        assert experiment.state.counts()["finished"] == 12
        told = experiment.state.trials
    ran = [tuple(map(int, line.split())) for line in (tmp_path / "diary.txt").read_text().splitlines()]
    assert len(ran) == len(set(ran)) and {number for number, _ in ran} == set(told)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["evolution"])
def test_three_driver_kills_lose_nothing_and_run_nothing_twice(tmp_path: Path, strategy: str) -> None:
    count = campaign(tmp_path, "ray_tune", strategy, trials=150, kills=3, rng=Random(1))
    assert count.clean, count
    assert count.kills >= 2, f"the search ended before it could be killed: {count}"


CLUSTER = """
import json, os, sys
from pathlib import Path
os.environ["RAY_AUTH_MODE"] = "disabled"
from nasforge.runners.ray_tune import bridge, ray, run
bridge.WARM_UP_S = 600.0
from ray.cluster_utils import Cluster
from nasforge.testing.toys import toy_config, toy_experiment
from dataclasses import dataclass
from nasforge.testing.toys import Planted

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1, num_gpus=1)
cluster.wait_for_nodes()

class OnNode(Planted):
    def __call__(self, proposal, report):
        (report.folder / "node.txt").write_text(ray.get_runtime_context().get_node_id())
        return super().__call__(proposal, report)

config = toy_config(Path(sys.argv[1]), budget={"trials": 10})
with toy_experiment(config) as experiment:
    run(experiment, OnNode(seconds=0.1), address=cluster.address, resources={"measure": {"cpu": 1, "gpu": 1}})
    nodes = {path.read_text() for path in config.folder.rglob("node.txt")}
    print(json.dumps({"finished": experiment.state.counts()["finished"], "nodes": len(nodes)}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_several_nodes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLUSTER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"finished": 10, "nodes": 2}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "nohost:1"])
def test_an_address_where_nobody_answers_is_refused_before_ray_waits(address: str, monkeypatch: Any) -> None:
    from nasforge.runners.ray_tune.cluster import _joined, ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of auto
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray would wait for more than a minute"))
    with raises(SearchError, "failed", None, address, "port 1"), _joined(address):
        pytest.fail("nobody is there")


@pytest.mark.parametrize("budget", [{"worker_seconds": 1e-9}, {"until": {"val/accuracy": 0.0}}])
def test_a_search_that_is_done_starts_no_ray(budget: dict[str, object], tmp_path: Path, monkeypatch) -> None:
    config = toy_config(tmp_path, budget={"trials": 1_000, **budget})
    with toy_experiment(config) as experiment:
        local.run(experiment, Planted())
        assert experiment.state.done and experiment.state.accepted < 1_000
    monkeypatch.setattr("nasforge.runners.ray_tune.cluster", lambda *options: pytest.fail("there is nothing to do"))
    with toy_experiment(config) as experiment:
        run(experiment, Planted())


def test_a_search_without_trials_left_notes_its_budget_as_a_local_one_does(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path, budget={"trials": 3})) as experiment:
        local.run(experiment, Planted())
    with toy_experiment(toy_config(tmp_path, budget={"trials": 2})) as experiment:
        run(experiment, Planted())
    budgets = [event.budget["trials"] for event in read_events(tmp_path / "toy") if isinstance(event, Extended)]
    assert budgets == [2]
