"""Workers on this machine or on a Ray cluster, through Ray Tune. The only package that knows Ray.

Tune schedules and places; it decides and remembers nothing. Its searcher and scheduler are two thin adapters that call
the experiment's `next`, `report` and `tell`, so our journal stays the truth. What Ray Tune does on its own account and
what therefore is switched off here is listed in docs/explanation/architecture.md.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

for _name, _setting in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # no state of Tune's own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output is silent at verbose=0
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_name, _setting)

import ray  # noqa: E402  (the settings above are read at import)
from ray import tune  # noqa: E402

from nasforge.core.about import about_of  # noqa: E402
from nasforge.core.errors import ConfigError, SearchError  # noqa: E402
from nasforge.core.importing import places  # noqa: E402
from nasforge.core.protocols import Evaluator  # noqa: E402
from nasforge.core.ranges import check_whole  # noqa: E402
from nasforge.evaluators.cost_check import CostCheck  # noqa: E402
from nasforge.experiment.experiment import Experiment  # noqa: E402
from nasforge.runners.ray_tune.bridge import AskNext, Bridge, ClusterLost, Decide, StopOnError  # noqa: E402
from nasforge.runners.ray_tune.cluster import (  # noqa: E402
    Cluster,
    bundle_of,
    check_device,
    cluster,
    remote_latency,
    resources_of,
    slots_beside_clock,
    slots_of,
)
from nasforge.runners.ray_tune.worker import Worker  # noqa: E402


def run(
    experiment: Experiment,
    evaluator: Evaluator,
    *,
    address: str | None = None,
    max_concurrent_trials: int | None = None,
    resources: Mapping[str, Mapping[str, float]] | None = None,
    cpus: int | None = None,
    logical_gpus: int | None = None,
) -> None:
    """Run the experiment on Ray workers.

    Args:
        experiment: open.
        evaluator: is pickled to every worker process once and kept there from trial to trial.
        address: address of a running cluster (`auto`, `host:6379`); None: start Ray on this machine.
        max_concurrent_trials: trials at the same time; None: as many as the cluster's resources hold.
        resources: resources of a worker per kind of job (`measure`, `train_shared`): `{cpu: 1, gpu: 0.25}`; those of
            one kind are those of the other too, unless it has its own. By default one CPU, and one GPU on a cluster
            with GPUs where the evaluator's device is not `cpu`.
        cpus: CPUs of a Ray started here; None: all.
        logical_gpus: logical GPUs of a Ray started here; None: those that are there.

    Raises:
        ConfigError: unknown kind or resource, more than any node has, a device with a number, or an address of Ray
            Client.
        SearchError: the cluster cannot be reached, is lost, or its workers cannot import what they need.
    """
    if max_concurrent_trials is not None:
        check_whole(max_concurrent_trials, "runner: max_concurrent_trials", 1)
    if not experiment.trials_left:
        experiment.next()  # there is none: this journals another budget or place of the data, as with other runners
        return
    device = about_of(evaluator).device
    check_device(device)
    with cluster(address, cpus, logical_gpus) as joined:
        resources_by_kind = resources_of(resources, device)
        held = slots_of(resources_by_kind["measure"])
        shipped = ray.put(evaluator)
        check = experiment.check
        if isinstance(check, CostCheck) and check.latency is not None:
            held = slots_beside_clock(resources_by_kind["measure"])
            if not held:
                raise ConfigError(
                    "runner: latency is measured on a worker that does nothing else, on a whole GPU if workers have "
                    "one, and there is no room for another worker; use --runner local, smaller resources per job, or "
                    "more nodes",
                    kind="conflict",
                    key="runner",
                )
            check.latency = remote_latency(shipped, resources_by_kind["measure"], joined)
        slots = min(max_concurrent_trials or held, held)
        bridge = Bridge(experiment, min(slots, experiment.trials_left), joined)
        try:
            _fit(bridge, shipped, resources_by_kind, slots, joined)
        except ClusterLost as lost:
            experiment.interrupt()  # the trials are not to blame
            raise SearchError(str(lost), kind="failed") from None
        except KeyboardInterrupt:
            experiment.interrupt()  # before Ray ends, which takes seconds
            raise


def _fit(
    bridge: Bridge, shipped: Any, resources_by_kind: Mapping[str, Mapping[str, float]], slots: int, joined: Cluster
) -> None:
    def placement(config: Mapping[str, Any]) -> Any:
        return tune.PlacementGroupFactory([bundle_of(resources_by_kind[config["kind"]])])

    known = {"folder": str(bridge.experiment.folder), "data_hash": bridge.experiment.state.header.data_hash}
    gpus = {kind: amounts.get("gpu", 0) for kind, amounts in resources_by_kind.items()}
    trainable = tune.with_parameters(Worker, shipped=[shipped], **known, modules=places(), gpus=gpus)
    trainable = tune.with_resources(trainable, placement)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are in the journal, so they appear once
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=AskNext(bridge),
            scheduler=Decide(bridge),
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"trial-{trial.config['number']}-{trial.trial_id}",
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(joined.scratch / "tune"),
            verbose=0,
            stop=StopOnError(bridge),
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    tuner.fit()
    if bridge.error is not None:
        raise bridge.error
