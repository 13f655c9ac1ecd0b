"""Groups of images that stay on one side of every split: patients, videos, near duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def joined(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return the group of each of `count` images, where `pairs` of images belong together.

    A group has the number of its first image.
    """
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return np.array([root(number) for number in range(count)], np.int64)


def chains(members: Iterable[Sequence[int]]) -> Iterable[tuple[int, int]]:
    """Yield pairs that join all members of each set."""
    for one in members:
        yield from ((one[0], other) for other in one[1:])


def per_class(labels: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """Return the number of groups that each class has."""
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    return np.bincount(pairs[0], minlength=classes)


def split(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide images by a share of every class, with each group on one side.

    Large groups are placed first, each on the side that keeps the classes placed so far nearest to their share; single
    images come last and even out the rest. A class with two groups or more has images on both sides.

    Args:
        labels: class number of each image.
        groups: group number of each image.
        share: of the second side, between 0 and 1.
        seed: of the order in which groups of equal size are placed.

    Returns:
        Positions of the first and the second side, sorted.
    """
    classes = int(labels.max()) + 1
    names, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), classes), np.int64)
    np.add.at(counts, (group, labels), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    total = counts.sum(0).tolist()
    waiting = (counts > 0).sum(0).tolist()  # groups of each class that are not placed yet
    first, second = [0] * classes, [0] * classes
    chosen = np.zeros(len(names), bool)
    for number in order:
        group_counts = [(label, int(counts[number, label])) for label in np.flatnonzero(counts[number])]
        must_take = must_keep = False
        gain = 0.0
        for label, count in group_counts:
            waiting[label] -= 1
            if not waiting[label] and total[label] > count:  # the last group of its class fills an empty side
                must_take |= not second[label]
                must_keep |= not first[label]
            ahead = second[label] - share * (first[label] + second[label] + count)
            gain += (abs(ahead) - abs(ahead + count)) / total[label]
        take = must_take if must_take != must_keep else gain > 0
        chosen[number] = take
        side = second if take else first
        for label, count in group_counts:
            side[label] += count
    taken = chosen[group]
    return np.flatnonzero(~taken), np.flatnonzero(taken)
