"""The policy of a search over time."""

import dataclasses
import re
from pathlib import Path

import pytest
from made_journal import SPACE, header, point, trial, write

from nasforge.core.events import Asked
from nasforge.core.trial import Measure, Origin
from nasforge.experiment.state import State, load_state
from nasforge.views import policies


def state_of(folder: Path, rows: list[dict[str, tuple[float, ...]] | None]) -> State:
    events = [dataclasses.replace(header(strategy={"name": "reinforce", "options": {}}), schema=2)]
    for number, policy in enumerate(rows):
        others = trial(number)[1:]
        origin = Origin(operator="policy", policy=policy)
        events += [Asked(number, Measure(point(number), origin=origin)), *others]
    return load_state(write(folder, events))


def test_entropy_is_a_share_of_an_even_policys() -> None:
    assert policies.undecided((0.25,) * 4) == pytest.approx(1) and policies.undecided((0.0, 1.0)) == 0
    assert policies.undecided((0.9, 0.1)) == pytest.approx(0.469, abs=1e-3) and policies.undecided((1.0,)) == 0


def test_the_policy_is_drawn_over_the_trials(tmp_path: Path) -> None:
    rows = [
        {"model.block": (1 - n / 20, n / 20), "model.width": (0.4, 0.3, 0.3)} if n % 2 == 0 else None for n in range(20)
    ]
    noted = policies.policies_of(state_of(tmp_path, rows))
    assert [one.number for one in noted] == list(range(0, 20, 2))
    assert [key for key, _ in policies.most_decided(noted)] == ["model.block", "model.width"]
    entropies = [float(value) for value in re.findall(r"trial \d+: (\d+)%", policies.entropy_chart(noted))]
    assert len(entropies) == 10 and entropies[0] <= 50 < entropies[5]
    drawn = policies.policy_chart(noted, SPACE, "model.block")
    assert "residual: 100% at first, 10% at last" in drawn and "inverted: 0% at first, 90% at last" in drawn
    assert drawn.count("<polygon") == 2 and drawn.count("<li") == 2


def test_many_options_and_foreign_ones_are_drawn(tmp_path: Path) -> None:
    chances = tuple([0.3] + [0.07] * 10)
    noted = policies.policies_of(state_of(tmp_path, [{"model.elsewhere": chances}] * 2 + [{"model.elsewhere": (1.0,)}]))
    drawn = policies.policy_chart(noted[:2], SPACE, "model.elsewhere")
    assert "option 1: 30%" in drawn and "4 others" in drawn and drawn.count("<polygon") == 8
    assert "fewer than two" in policies.policy_chart(noted, SPACE, "model.elsewhere")
    assert "fewer than two" in policies.entropy_chart(noted[:1])
    assert not policies.policies_of(state_of(tmp_path / "none", [None, None]))
