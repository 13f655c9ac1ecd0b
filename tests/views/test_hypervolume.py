"""Hypervolumes of fronts whose volume is known."""

import itertools
import random

import pytest

from nasforge.views.hypervolume import hypervolume, hypervolume_curve


def test_two_objectives_by_hand() -> None:
    assert hypervolume([(2.0, 1.0), (1.0, 3.0)], (0.0, 0.0)) == 4.0
    assert hypervolume([(2.0, 1.0), (1.0, 3.0), (1.0, 1.0), (0.5, 2.0)], (0.0, 0.0)) == 4.0, (
        "dominated ones add nothing"
    )
    assert hypervolume([(2.0, 1.0)], (1.0, 0.0)) == 1.0


def test_points_not_above_the_reference_add_nothing() -> None:
    assert hypervolume([(0.0, 5.0), (-1.0, 9.0)], (0.0, 0.0)) == 0.0
    assert hypervolume([], (0.0, 0.0)) == 0.0


def test_one_objective_is_a_length() -> None:
    assert hypervolume([(3.0,), (2.0,)], (1.0,)) == 2.0


def test_three_objectives_by_hand() -> None:
    # Three boxes 1 x 1 x 3 along the axes that share the unit cube: 3 * 3 - 2.
    assert hypervolume([(3.0, 1.0, 1.0), (1.0, 3.0, 1.0), (1.0, 1.0, 3.0)], (0.0, 0.0, 0.0)) == 7.0


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_against_counting_cells(dimensions: int) -> None:
    rng = random.Random(dimensions)
    for _ in range(10):
        points = [tuple(float(rng.randint(0, 5)) for _ in range(dimensions)) for _ in range(7)]
        cells = sum(
            any(all(x > c for x, c in zip(point, cell, strict=True)) for point in points)
            for cell in itertools.product(range(5), repeat=dimensions)
        )
        assert hypervolume(points, (0.0,) * dimensions) == cells


def test_known_fronts() -> None:
    # The plane x + y + z = 1 in n equal steps, ZDT-like staircase in two: both sums are known in closed form.
    n = 20
    stairs = [(i / n, (n - i) / n) for i in range(n + 1)]
    assert hypervolume(stairs, (0.0, 0.0)) == pytest.approx(sum(n - i for i in range(1, n)) / n**2)
    plane = [(i / n, j / n, (n - i - j) / n) for i in range(n + 1) for j in range(n + 1 - i)]
    cells = sum(1 for i in range(n) for j in range(n) for k in range(n) if i + j + k <= n - 3)
    assert hypervolume(plane, (0.0, 0.0, 0.0)) == pytest.approx(cells / n**3)


def test_curve_is_the_hypervolume_of_what_was_seen() -> None:
    rng = random.Random(1)
    points = [None if rng.random() < 0.2 else (rng.random(), rng.random(), rng.random()) for _ in range(30)]
    curve = hypervolume_curve(points, (0.2, 0.1, 0.0))
    for index in range(30):
        seen = [point for point in points[: index + 1] if point is not None]
        assert curve[index] == pytest.approx(hypervolume(seen, (0.2, 0.1, 0.0)))
