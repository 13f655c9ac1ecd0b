import numpy as np
import pytest

from nasforge.data import groups


def test_pairs_join_images_and_a_group_is_known_by_its_first():
    assert groups.joined(6, [(4, 2), (2, 5), (0, 1)]).tolist() == [0, 0, 2, 3, 2, 2]
    assert list(groups.chains([(1, 3, 5), (2,)])) == [(1, 3), (1, 5)]


@pytest.mark.parametrize("seed", range(5))
def test_each_group_is_on_one_side_and_each_class_has_its_share(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 300)
    group = np.where(rng.random(300) < 0.5, rng.integers(0, 30, 300), np.arange(300) + 100)
    first, second = groups.split(labels, group, 0.2, seed)
    assert sorted([*first, *second]) == list(range(300))
    assert not set(group[first]) & set(group[second])
    assert np.allclose(np.bincount(labels[second]) / np.bincount(labels), 0.2, atol=0.05)
    again = groups.split(labels, group, 0.2, seed)
    assert np.array_equal(first, again[0]) and not np.array_equal(first, groups.split(labels, group, 0.2, seed + 9)[0])
    large = np.flatnonzero(np.bincount(group)[group] > 1)
    assert set(large) & set(first) and set(large) & set(second)  # pairs do not all end on one side


def test_a_class_of_few_groups_is_on_both_sides():
    labels, group = np.array([0] * 40 + [1] * 6), np.array([*range(40), 50, 50, 50, 51, 51, 51])
    for seed in range(5):
        for side in groups.split(labels, group, 0.1, seed):
            assert set(labels[side]) == {0, 1}
    assert groups.per_class(labels, group, 2).tolist() == [40, 2]
