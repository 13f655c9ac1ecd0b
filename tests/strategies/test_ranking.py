import math

from hypothesis import given, settings
from hypothesis import strategies as st

from nasforge.core.trial import Result
from nasforge.strategies.ranking import Merit, beats, crowding, fronts, merit, ranked

merits = st.integers(1, 3).flatmap(
    lambda n: st.lists(
        st.builds(Merit, st.booleans(), st.integers(1, 2), st.tuples(*[st.integers(0, 4).map(float)] * n)), max_size=25
    )
)


def finished(*values, steps=3):
    return Merit(True, steps, values)


@settings(max_examples=150, deadline=None)
@given(merits)
def test_fronts_are_what_peeling_gives(points):
    """Against the definition: the first front is what nobody beats, then the same of the rest."""
    left, peeled = set(range(len(points))), []
    while left:
        front = {i for i in left if not any(beats(points[j], points[i]) for j in left)}
        peeled.append(front)
        left -= front
    assert [set(front) for front in fronts(points)] == peeled


def test_pruned_rank_below_all_unpruned_and_fidelity_comes_before_values():
    worst, short, pruned = finished(0.1), finished(0.9, steps=1), Merit(False, 2, (0.99,))
    assert ranked([pruned, short, worst]) == [2, 1, 0]
    assert not beats(short, worst)
    assert beats(worst, pruned)


def test_nothing_to_compare_has_no_merit():
    assert merit(Result.failed("crash", "gone")) is None
    assert merit(Result("rejected", metrics={"constraint/violation": 1.0})) is None
    assert merit(Result("pruned")) is None
    assert merit(Result("finished", values=(0.5, math.nan))) is None
    assert merit(Result("finished", values=(0.5,), steps_done=2)) == Merit(True, 2, (0.5,))


def test_crowding_by_hand():
    # sorted by the first objective: 0, 1, 4; the middle one spans all of both objectives
    assert crowding([(0.0, 8.0), (4.0, 0.0), (1.0, 6.0)]) == [math.inf, math.inf, 4 / 4 + 8 / 8]
    assert crowding([(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)])[1] == 0.0
    assert crowding([]) == []


def test_in_a_front_the_least_crowded_come_first():
    front = [finished(x, 10 - x) for x in (0.0, 1.0, 1.5, 6.0, 10.0)]
    assert ranked(front)[:3] == [0, 4, 3]
    assert ranked([finished(-1.0, -1.0), *front])[-1] == 0
