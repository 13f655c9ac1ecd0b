"""A training that is late ends with its epoch, is measured, and goes on from its checkpoint."""

import time

from test_loop import EVERYTHING, network, same, trained

from nasforge.training.meter import deadline_now, trainings_end_by


def test_a_late_training_ends_with_its_epoch_on_averaged_weights_and_is_measured(tmp_path):
    net = network()
    with trainings_end_by(lambda: time.monotonic() - 1):
        _, outcome = trained(net=net, at_end=True, file=tmp_path / "checkpoint.pt")
    assert outcome.steps_done == 1 and not outcome.stopped and "val/accuracy" in outcome.metrics
    whole, _ = trained(at_end=True)
    again, outcome = trained(at_end=True, file=tmp_path / "checkpoint.pt")
    assert outcome.steps_done == 3 and same(again, whole)


def test_without_a_deadline_nothing_ends_early():
    assert deadline_now() is None
    with trainings_end_by(lambda: None):
        assert trained(recipe=EVERYTHING)[1].steps_done == 3
    with trainings_end_by(lambda: time.monotonic() + 600):
        assert trained(recipe=EVERYTHING)[1].steps_done == 3
