"""The last training of a fit: how long it may be, and what a training that ran out of time is worth."""

import json

import pytest

from nasforge.api.fit.last import _is_cut, _seconds_per_image
from nasforge.core.layout import DESCRIPTION
from nasforge.core.trial import Charge, Measure, Result, Step, Trial
from nasforge.testing.scripted import spec_of
from nasforge.testing.strategies import MIXED


def trial_of(steps, flops, charged):
    point = spec_of(MIXED, seed=0).space.default_point()
    result = Result("finished", values=(0.5,), steps_done=len(steps) or 1, charged=charged)
    return Trial(0, Measure(point), costs={"cost/flops": flops}, steps=tuple(steps), result=result)


def test_a_candidate_that_was_late_counts_by_the_images_that_it_saw():
    """2 of 300 epochs of 100 images, in 4 seconds."""
    work = {"time/train_s": 4.0, "work/multiply_adds": 3 * 50.0 * 200}
    trial = trial_of([Step(2, work, (0.5,), Charge(4.0, 0.0), False)], 50.0, Charge(9.0, 3 * 50.0 * 260))
    assert _seconds_per_image(trial, planned=30_000) == pytest.approx(4.0 / 200)
    assert _seconds_per_image(trial_of([], 50.0, Charge(9.0, 3 * 50.0 * 260)), 30_000) == pytest.approx(9.0 / 260)
    assert _seconds_per_image(trial_of([], 0.0, Charge(9.0, 0.0)), 300) == pytest.approx(9.0 / 300)


@pytest.mark.parametrize(("done", "cut"), [(20, True), (514, False)])
def test_a_network_of_fewer_epochs_than_planned_was_cut(done, cut, tmp_path, monkeypatch):
    assert not _is_cut(tmp_path, 514), "nothing is there"
    (tmp_path / DESCRIPTION).write_text(json.dumps({}))
    monkeypatch.setattr("nasforge.api.fit.last._epochs_done", lambda folder: done)
    assert _is_cut(tmp_path, 514) == cut
