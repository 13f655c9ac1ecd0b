"""Independent trainings on Ray workers: several side by side, or each by several workers through Ray Train.

The driver gets progress and outcomes, and alone writes the journal. Workers save their trainings in the experiment's
folder; a training whose worker was lost resumes from its checkpoint on another one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue

from nasforge.core.errors import ConfigError, DeviceLost, NasforgeError, SearchError
from nasforge.core.gpu_share import lend
from nasforge.core.importing import Places, adopt, places
from nasforge.core.ranges import check_whole
from nasforge.runners.ray_tune.cluster import (
    Cluster,
    as_ours,
    bundle_of,
    check_device,
    cluster,
    lend_gpus,
    options_of,
    resources_of,
    slots_of,
)
from nasforge.runners.ray_tune.worker import end_process
from nasforge.training.data_parallel import check_failure

Item = TypeVar("Item")
Progress = Callable[..., None]
Work = Callable[[Item, Progress], str]
"""Does an item, tells its progress, returns the reason of a failure in words (empty: none). Picklable."""

_LOOK_S = 0.5
"""Seconds between the driver's checks that Ray still runs."""
_LOST_TWICE = 2
"""Number of times that a training may lose its worker and resume."""


def side_by_side(
    work: Work[Item],
    items: Sequence[Item],
    progress: Progress,
    device: str = "auto",
    *,
    address: str | None = None,
    max_concurrent_trials: int | None = None,
    resources: Mapping[str, Mapping[str, float]] | None = None,
    cpus: int | None = None,
    logical_gpus: int | None = None,
    workers_per_network: int = 1,
) -> Iterator[tuple[Item, str]]:
    """Yield items with their outcomes as they end. Options are those of the runner `ray_tune`.

    An item takes the resources of a `measure` there.

    Args:
        work: what to do with an item.
        items: in this order.
        progress: is told here what `work` tells there.
        device: what `work` computes on.
        address: of a running cluster; None starts Ray on this machine.
        max_concurrent_trials: items at the same time; None for as many as fit.
        resources: `{measure: {cpu: 1, gpu: 0.25}}`, what a worker takes.
        cpus: of a Ray started here.
        logical_gpus: of a Ray started here.
        workers_per_network: above 1, `work` runs on this many workers at once, in one group of `torch.distributed`, and
            items are done one after the other. A lost worker ends that, and the same call resumes it.

    Raises:
        ConfigError: resources that no node has; a numbered GPU; shares of GPUs for workers that train together.
        SearchError: the cluster cannot be reached, or lost a worker again and again.
    """
    for name, number in (
        ("max_concurrent_trials", max_concurrent_trials),
        ("workers_per_network", workers_per_network),
    ):
        if number is not None:
            check_whole(number, f"runner: {name}", 1)
    if not items:
        return
    check_device(device, grouped=workers_per_network > 1)
    work = partial(_work_here, work, places())
    with cluster(address, cpus, logical_gpus) as joined:
        each = resources_of(resources, device)["measure"]
        if workers_per_network > 1 and each.get("gpu", 0) % 1:
            raise ConfigError(
                f"runner: each of the {workers_per_network} workers of a network gets {each['gpu']:g} GPUs, but NCCL "
                "takes one worker per GPU; set resources.measure.gpu to a whole number",
                kind="conflict",
                key="runner.resources",
            )
        slots = slots_of(each)
        if workers_per_network > slots:
            raise ConfigError(
                f"runner: {workers_per_network} workers per network do not fit: the nodes hold {slots} of "
                f"{bundle_of(each)}; ask for fewer, or for smaller resources per worker",
                kind="range",
                key="runner",
            )
        with _messages(progress) as queue:
            if workers_per_network > 1:
                yield from _in_groups(work, items, queue, each, workers_per_network, joined)
            else:
                yield from _on_tasks(work, items, queue, each, min(max_concurrent_trials or slots, slots), joined)


@contextmanager
def _messages(progress: Progress) -> Iterator[Queue]:
    """Open a queue to this process; a thread passes its messages to `progress`."""
    queue, over = Queue(actor_options={"num_cpus": 0}), threading.Event()

    def listen() -> None:
        while True:
            try:
                progress(*queue.get(timeout=0.2))
            except Empty:
                if over.is_set():
                    return
            except ray.exceptions.RayError:
                return  # the cluster is gone; waiting for results raises the error

    thread = threading.Thread(target=listen, name="progress", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        over.set()
        thread.join(timeout=10)


# --- each on one worker -----------------------------------------------------------------------------------------------


def _on_tasks(
    work: Work[Item],
    items: Sequence[Item],
    queue: Queue,
    resources: Mapping[str, float],
    slots: int,
    joined: Cluster,
) -> Iterator[tuple[Item, str]]:
    # ray tries again when the worker was lost, not when `work` raised
    task = ray.remote(max_retries=_LOST_TWICE, **options_of(resources))(_do)
    waiting, running = list(items), dict[Any, Item]()
    while waiting or running:
        while waiting and len(running) < slots:
            item = waiting.pop(0)
            running[task.remote(work, item, queue, resources.get("gpu", 0))] = item
        done, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_S)
        _check(joined)
        for reference in done:
            item = running.pop(reference)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise as_ours(error) from error
            except ray.exceptions.RayError as error:
                reason = str(error).partition("\n")[0]
                _check(joined)
                raise SearchError(
                    f"a training lost its worker several times ({reason}); {_again(joined)}", kind="failed"
                ) from error
            yield item, outcome


def _work_here(work: Work[Item], modules: Places, item: Item, progress: Progress) -> str:
    """Call `work` in a process that looks for modules where the driver does."""
    adopt(modules)
    return work(item, progress)


def _do(work: Work[Item], item: Item, queue: Queue, gpus: float) -> str:
    lend_gpus(gpus)
    try:
        return work(item, lambda *told: queue.put(told))
    except DeviceLost as error:
        end_process(error)  # ray tries again in another process


def _check(joined: Cluster) -> None:
    if lost := joined.lost:
        raise SearchError(lost, kind="failed")


def _again(joined: Cluster) -> str:
    return f"see the logs in {joined.keep_logs()}; the same command resumes from the checkpoints"


# --- each on several workers ------------------------------------------------------------------------------------------


def _in_groups(
    work: Work[Item],
    items: Sequence[Item],
    queue: Queue,
    resources: Mapping[str, float],
    workers: int,
    joined: Cluster,
) -> Iterator[tuple[Item, str]]:
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # failures are raised, so they appear once
    outcomes, uses_gpu = Queue(actor_options={"num_cpus": 0}), resources.get("gpu", 0) > 0
    failed: list[BaseException] = []
    trainer = TorchTrainer(
        _do_together,
        train_loop_config={
            "work": work,
            "items": items,
            "queue": queue,
            "outcomes": outcomes,
            "gpus": resources.get("gpu", 0),
        },
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=uses_gpu, resources_per_worker=bundle_of(resources)),
        # gloo too: workers with GPUs may be told to train on CPUs
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if uses_gpu else "gloo"),
        run_config=RunConfig(
            name="retraining",
            storage_path=str(joined.scratch / "train"),
            failure_config=FailureConfig(max_failures=0),
        ),
    )

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # for the thread that waits
            failed.append(error)

    fitting = threading.Thread(target=fit, name="data-parallel", daemon=True)
    fitting.start()
    done, over = 0, False
    while done < len(items):
        _check(joined)
        try:
            outcome = outcomes.get(timeout=_LOOK_S)
        except Empty:  # a RayError too, when Ray passes it on
            if over:
                silent = SearchError("a group of workers ended without a message", kind="failed")
                raise _ours_in(failed[0] if failed else silent, joined) from None
            over = not fitting.is_alive()  # looked at once more after that: the last outcome may have come between
            continue
        except ray.exceptions.RayError as error:
            _check(joined)
            raise _ours_in(error, joined) from None
        yield items[done], outcome
        done += 1
    fitting.join()


def _do_together(config: Mapping[str, Any]) -> None:
    """Process items one after the other, on every worker of a group; the first worker speaks for all."""
    lend(config["gpus"])
    import torch.distributed as dist

    first, watch = get_context().get_world_rank() == 0, dist.new_group(backend="gloo")
    for item in config["items"]:
        outcome = config["work"](item, lambda *told: config["queue"].put(told) if first else None)
        if outcome:
            check_failure(outcome, watch)
        if first:
            config["outcomes"].put(outcome)


def _ours_in(failure: BaseException, joined: Cluster) -> BaseException:
    """Return the user's error that caused a group's failure, or a sentence about the failure."""
    waiting, known = list[Any]([failure]), set[int]()
    while waiting:
        seen = waiting.pop()
        if id(seen) in known:
            continue
        known.add(id(seen))
        if isinstance(seen, NasforgeError):
            return seen
        below = [getattr(seen, name, None) for name in ("cause", "__cause__", "__context__")]
        waiting += [error for error in below if error is not None]
        waiting += list(getattr(seen, "worker_failures", {}).values())
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    return SearchError(f"data-parallel training ended: {lines[-1]}; {_again(joined)}", kind="failed")
