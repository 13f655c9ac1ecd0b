"""Networks that a differentiable search derives below a hard limit: how many are rejected before the first allowed one.

    OMP_NUM_THREADS=1 python benchmarks/hard_limits.py          # -> benchmarks/results/hard_limits.json

Nothing is trained: the alphas are normal draws plus a slope, so that they favour the later options of every decision,
which are the costlier ones in most. FLOPs are those of the networks built. The limit is what a given share of
`--sample` random networks meet. `plain` takes the networks in the order of their alphas and stops after `--most`.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from machine import describe, write

from nasforge.core.architecture import Architecture
from nasforge.core.goals import Constraint
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Measure, Result, TrainShared
from nasforge.models.costs import count_flops
from nasforge.models.network import build
from nasforge.settings.experiment import load_space
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.differentiable import gdas
from nasforge.strategies.prices import Prices

HERE = Path(__file__).parent
RESULT = HERE / "results" / "hard_limits.json"
SPACES = {"unseen": (HERE / "unseen.yaml", (3, 8, 8)), "blocks": ("blocks", (3, 32, 32))}
SHARES = (0.1, 0.03)


class Plain(Prices):
    """No prices: the alphas as they are."""

    def note(self, point: Architecture, costs: Any) -> None:
        pass


def flops_of(space: SearchSpace, point: Architecture, shape: tuple[int, int, int]) -> float:
    with torch.device("meta"):
        return float(count_flops(build(space, point, in_channels=shape[0], classes=10), shape))


def rejections(
    space: SearchSpace, shape: tuple[int, int, int], bound: float, seed: int, most: int, prices: type[Prices]
) -> tuple[int, bool]:
    """Return how many networks were rejected, and whether an allowed one followed."""
    spec = SearchSpec(space, seed=seed, constraints=(Constraint("cost/flops", bound),))
    strategy = gdas(spec)
    strategy._prices = prices(space, spec.constraints)
    rng = random.Random(seed)
    supernet = strategy.ask(0)
    assert isinstance(supernet, TrainShared) and supernet.alphas is not None
    alphas = {
        key: tuple(rng.gauss(0, 1) + 2 * place / len(row) for place in range(len(row)))
        for key, row in supernet.alphas.items()
    }
    strategy.tell(0, Result("finished", steps_done=1, alphas=alphas))
    for number in range(1, most + 1):
        proposal = strategy.ask(number)
        assert isinstance(proposal, Measure)
        flops = flops_of(space, proposal.architecture, shape)
        if flops <= bound:
            return number - 1, True
        excess = {"cost/flops": flops, "constraint/violation": flops / bound - 1}
        strategy.tell(number, Result("rejected", metrics=excess))
    return most, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--most", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, (source, shape) in SPACES.items():
        space, rng = load_space(str(source)), random.Random(0)
        costs = sorted(flops_of(space, space.sample(rng), shape) for _ in range(options.sample))
        for share in SHARES:
            bound = costs[int(share * options.sample)]
            for way, prices in (("prices", Prices), ("plain", Plain)):
                for seed in range(options.seeds):
                    count, allowed = rejections(space, shape, bound, seed, options.most, prices)
                    row = {"space": name, "share": share, "way": way, "seed": seed, "rejected": count, "found": allowed}
                    print(row, flush=True)
                    rows.append(row)
    settings = {name: getattr(options, name) for name in ("seeds", "sample", "most")}
    write(options.out, {"protocol": __doc__, "machine": describe(), "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
