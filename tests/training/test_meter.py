"""A training that is late ends with its epoch, is measured, and goes on from its checkpoint."""

import time

from test_loop import EVERYTHING, network, same, trained

from nasforge.training.meter import Limits, Meter, deadline_now, trainings_end_by
from nasforge.training.state import Checkpoint


def test_a_late_training_ends_with_its_epoch_on_averaged_weights_and_is_measured(tmp_path):
    net = network()
    with trainings_end_by(lambda: time.monotonic() - 1):
        _, outcome = trained(net=net, at=(), file=tmp_path / "checkpoint.pt")
    assert outcome.steps_done == 1 and not outcome.stopped and "val/accuracy" in outcome.metrics
    whole, _ = trained(at=())
    again, outcome = trained(at=(), file=tmp_path / "checkpoint.pt")
    assert outcome.steps_done == 3 and same(again, whole)


def test_a_late_training_that_is_called_again_continues_only_under_a_later_deadline(tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", epoch_s=600.0, at_end=True)

    def late(until):
        with trainings_end_by(lambda: time.monotonic() - 1, until):
            return trained(at=(), checkpoint=checkpoint)

    net, outcome = late(60.0)
    for until in (60.0, 50.0):
        again, repeated = late(until)
        assert repeated.steps_done == 1 and repeated.metrics == outcome.metrics and same(again, net)
    assert late(70.0)[1].steps_done == 2
    again, repeated = trained(at=(), checkpoint=checkpoint)
    assert repeated.steps_done == 3 and same(again, trained(at=())[0])


def test_without_a_deadline_nothing_ends_early():
    assert deadline_now() is None
    with trainings_end_by(lambda: None):
        assert trained(recipe=EVERYTHING)[1].steps_done == 3
    with trainings_end_by(lambda: time.monotonic() + 600):
        assert trained(recipe=EVERYTHING)[1].steps_done == 3


def test_a_meter_counts_all_attempts_and_sees_its_limit():
    first = Meter(Limits(seconds=100, since=time.monotonic() - 60))
    first.begin_epoch()
    first.count_step(images=4, flops=10.0)
    assert first.multiply_adds == 120 and 60 <= first.worker_s < 70 and first.train_s < 10 and not first.over_limit
    second = Meter(Limits(seconds=100, since=time.monotonic() - 50))
    second.load_state_dict(first.state_dict())
    second.begin_epoch()
    second.count_step(images=4, flops=10.0)
    assert second.multiply_adds == 240 and second.over_limit == "over the limit of 100 s"
    assert second.metrics()["time/worker_s"] == second.charge.worker_seconds > 110
    failed = second.fail("timeout", "too slow", "wait")
    assert (failed.failure.cause, failed.charged) == ("timeout", second.charge)
