from contextlib import contextmanager

import pytest
from test_loop import Interrupted, breaking, network, same, trained

from nasforge.training.hooks import Hook


class Diary(Hook):
    """A hook that writes down where it was called."""

    name = "diary"

    def __init__(self, settled_after=99):
        self.lines = []
        self.epochs = 0
        self.settled_after = settled_after

    @property
    def settled(self):
        return self.epochs >= self.settled_after

    def before_step(self, step):
        self.lines.append(f"step {step.number}{' last' if step.last else ''}")
        assert step.inputs.shape[0] == len(step.labels) and step.learning_rate > 0

    @contextmanager
    def around_forward(self):
        self.lines.append("forward")
        yield
        self.lines.append("after forward")

    def after_backward(self):
        self.lines.append("after backward")

    def after_step(self, network, done):
        self.lines.append(f"after step {done}")

    def after_epoch(self, network, done):
        self.lines.append(f"after epoch {done}")

    def metrics(self, done):
        self.epochs = done
        return {"diary/epochs": float(done)}

    def state_dict(self):
        return {"lines": list(self.lines), "epochs": self.epochs}

    def load_state_dict(self, state):
        self.lines, self.epochs = state["lines"], state["epochs"]


def test_the_loop_calls_every_place_in_order():
    diary = Diary()
    _, outcome = trained(epochs=2, hooks=[diary])
    assert diary.lines[:5] == ["step 0", "forward", "after forward", "after backward", "after step 1"]
    epoch = diary.lines[: len(diary.lines) // 2]
    assert [line for line in epoch if line.endswith("last")] == ["step 2 last"]
    assert (epoch[-1], diary.lines[-1]) == ("after epoch 1", "after epoch 2")
    assert outcome.metrics["diary/epochs"] == 2


def test_a_hook_that_is_settled_ends_the_training():
    assert trained(epochs=3, hooks=[Diary(settled_after=2)])[1].steps_done == 2


def test_a_hook_that_overrides_nothing_changes_nothing():
    assert same(trained(hooks=[Hook()])[0], trained()[0])


def test_the_state_of_a_hook_continues_with_the_training(tmp_path):
    whole, cut, again = Diary(), Diary(), Diary()
    trained(hooks=[whole])
    net = network()
    breaking(net, 4)
    with pytest.raises(Interrupted):
        trained(net=net, hooks=[cut], file=tmp_path / "checkpoint.pt", every_s=0)
    trained(hooks=[again], file=tmp_path / "checkpoint.pt")
    assert again.lines == whole.lines


def test_steps_are_counted_over_all_epochs():
    diary = Diary()
    trained(epochs=2, hooks=[diary])
    assert [line for line in diary.lines if line.startswith("after step")] == [f"after step {n}" for n in range(1, 7)]
