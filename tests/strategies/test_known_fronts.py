"""NSGA-II on problems whose Pareto front is known: ZDT1 to ZDT3 on grids.

Zitzler, Deb and Thiele, "Comparison of Multiobjective Evolutionary Algorithms: Empirical Results", 2000
(https://doi.org/10.1162/106365600568202). On the front all variables but the first are zero.
"""

import math
import random
import statistics

import pytest

from nasforge.core.pareto import front
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Result
from nasforge.strategies.nsga2 import NSGA2
from nasforge.strategies.random import Random
from nasforge.testing.scripted import spec_of
from nasforge.views.hypervolume import hypervolume

VARIABLES, GRID, EVALUATIONS = 6, 21, 400
SPACE = SearchSpace("zdt", tuple(Decision(f"model.x{i}", Choice(tuple(range(GRID)))) for i in range(VARIABLES)))


def zdt(number, point):
    """Both objectives, to minimise."""
    x = [point.values[f"model.x{i}"] / (GRID - 1) for i in range(VARIABLES)]
    g = 1 + 9 * sum(x[1:]) / (VARIABLES - 1)
    ratio = x[0] / g
    bent = {
        1: 1 - math.sqrt(ratio),
        2: 1 - ratio**2,
        3: 1 - math.sqrt(ratio) - ratio * math.sin(10 * math.pi * x[0]),
    }[number]
    return x[0], g * bent


def reached(factory, number, seed):
    """Every value pair of a search with three trials out at a time, to maximise."""
    strategy = factory(spec_of(SPACE, seed=seed, objectives=2))
    points, running, rng = [], [], random.Random(seed)
    for asked in range(EVALUATIONS):
        running.append((asked, strategy.ask(asked).architecture))
        if len(running) == 3:
            back, point = running.pop(rng.randrange(3))
            values = tuple(-value for value in zdt(number, point))
            points.append(values)
            strategy.tell(back, Result("finished", values=values, steps_done=1))
    return points


@pytest.mark.parametrize("number", [1, 2, 3])
def test_nsga2_comes_near_the_known_front_and_random_search_does_not(number):
    best = [SPACE.point({"model.x0": i} | {f"model.x{j}": 0 for j in range(1, VARIABLES)}) for i in range(GRID)]
    exact = [tuple(-value for value in zdt(number, point)) for point in best]
    worst = (-1.0, -10.0)
    whole = hypervolume([exact[index] for index in front(exact)], worst)

    def share(factory):
        return statistics.mean(hypervolume(reached(factory, number, seed), worst) / whole for seed in range(2))

    ours = share(NSGA2)
    assert ours > 0.95 and ours > share(Random) + 0.1


def test_the_front_that_is_found_is_spread():
    points = reached(NSGA2, 1, 0)
    firsts = sorted(points[index][0] for index in front(points))
    assert len(firsts) >= 8 and firsts[-1] - firsts[0] > 0.7
