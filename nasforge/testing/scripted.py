"""Searches in miniature: small spaces with a planted optimum, and trials whose outcome their number decides."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from nasforge.core.architecture import Architecture
from nasforge.core.goals import Constraint, Objective
from nasforge.core.ladder import Rung, ladder_to
from nasforge.core.protocols import Strategy
from nasforge.core.space import Choice, Decision, Domain, Float, Int, SearchSpace
from nasforge.core.trial import CHECKPOINT, Artifact, Measure, Proposal, Result, Score, TrainShared, proposal_from_json
from nasforge.settings.spec import SearchSpec

Factory: TypeAlias = Callable[..., Strategy]
"""Entry of the registry, called as `factory(spec)`."""

Line: TypeAlias = tuple[int, Proposal | Result]
"""Line of a journal: of trial `number`, that it was asked or the outcome."""

FLAT = SearchSpace("flat", tuple(Decision(f"model.layer{i}", Choice(("a", "b", "c", "d", "e"))) for i in range(6)))
NESTED = SearchSpace(
    "nested",
    tuple(
        Decision(
            f"model.layer{i}",
            Choice(
                ("identity", "plain", "inverted"),
                (
                    (),
                    (Decision(f"model.layer{i}.plain.kernel", Choice((3, 5))),),
                    (
                        Decision(f"model.layer{i}.inverted.expansion", Choice((2, 4, 6))),
                        Decision(
                            f"model.layer{i}.inverted.squeeze",
                            Choice((False, True), ((), (Decision(f"model.layer{i}.inverted.squeeze.to", Int(1, 4)),))),
                        ),
                    ),
                ),
            ),
        )
        for i in range(3)
    ),
)
MIXED = SearchSpace(
    "mixed",
    (
        *NESTED.decisions[:1],
        Decision("model.activation", Choice(("relu", "silu"))),
        Decision("model.width", Int(8, 128, log=True)),
        Decision("model.only", Choice(("this",))),
        Decision("train.learning_rate", Float(1e-4, 1.0, log=True)),
        Decision("train.momentum", Float(0.0, 0.99)),
        Decision("train.dropout", Float(0.0, 0.5, step=0.1)),
        Decision("train.epochs_warmup", Int(0, 9, step=3)),
    ),
)
SMALL = SearchSpace("small", (Decision("model.a", Choice((1, 2, 3))), Decision("model.b", Choice((True, False)))))
SPACES = (FLAT, NESTED, MIXED)
_METRICS = ("val/accuracy", "cost/flops", "cost/params")


def spec_of(
    space: SearchSpace,
    *,
    seed: int = 0,
    objectives: int = 1,
    targets: Sequence[Constraint] = (),
    ladder: Sequence[Rung] = ladder_to(9),
) -> SearchSpec:
    """Return the facts of a search in miniature; `objectives` is their number."""
    goals = [Objective(metric, maximise=index == 0) for index, metric in enumerate(_METRICS[:objectives])]
    return SearchSpec(space, seed=seed, objectives=tuple(goals), targets=tuple(targets), ladder=tuple(ladder))


def drive(
    strategy: Strategy,
    space: SearchSpace,
    *,
    asks: int,
    objectives: int = 1,
    workers: int = 3,
    journal: Iterable[Line] = (),
    repeat_none: int = 1,
) -> list[Line]:
    """Run a small search: `workers` trials at a time, told out of order, every outcome scripted by number.

    Args:
        strategy: a new one, or one that has replayed `journal`.
        space: what it searches.
        asks: proposals in all.
        objectives: values per result.
        workers: trials out at a time.
        journal: what happened before.
        repeat_none: how often to ask again when the answer is None.

    Returns:
        The whole journal.
    """
    lines = list(journal)
    asked = {number: content for number, content in lines if not isinstance(content, Result)}
    told = {number for number, content in lines if isinstance(content, Result)}
    number = len(asked)
    while True:
        running = sorted(set(asked) - told)
        proposal = None
        if len(running) < workers and number < asks:
            for _ in range(repeat_none):
                proposal = strategy.ask(number)
                if proposal is not None:
                    break
        if proposal is not None:
            asked[number] = proposal
            lines.append((number, proposal))
            number += 1
        elif running:
            # Drawn from the journal's length alone, so that a continued search is told in the same order.
            back = random.Random(len(lines)).choice(running)
            result = outcome(space, back, asked[back], objectives)
            strategy.tell(back, result)
            told.add(back)
            lines.append((back, result))
        else:
            return lines


def replay(strategy: Strategy, lines: Iterable[Line]) -> None:
    """Recall and tell what a journal says, as parsed back from JSON."""
    for number, content in lines:
        text = json.dumps(content.to_json())
        if isinstance(content, Result):
            strategy.tell(number, Result.from_json(json.loads(text)))
        else:
            strategy.recall(number, proposal_from_json(json.loads(text)))


def outcome(space: SearchSpace, number: int, proposal: Proposal, objectives: int = 1) -> Result:
    """Return the scripted result of a trial: of every eleven one fails, two are rejected, one is pruned."""
    if isinstance(proposal, TrainShared):
        optimum = space.sample(random.Random("planted")).values
        rng = random.Random(number)
        alphas = {  # a supernet that has learnt which options are best, not how good the others are
            key: tuple(
                (_alike(domain, optimum[key], value) if key in optimum else 0.0) + rng.random() / 4
                for value in domain.values
            )
            for key, domain in proposal.space.domains.items()
            if 1 < domain.size < math.inf
        }
        return Result(
            "finished",
            steps_done=proposal.epochs,
            alphas=alphas,
            artifacts={"weights": Artifact(f"artifacts/{number}/attempt-1/weights.safetensors", "0" * 64, 1)},
        )
    if isinstance(proposal, Score):
        scores = [{"zc/planted": closeness(space, point)} for point in proposal.architectures]
        return Result("finished", scores=tuple(scores))
    close = closeness(space, proposal.architecture)
    values = (close, 1 - close**2)[:objectives]
    match number % 11:
        case 3:
            return Result.failed("diverged", "the loss became NaN")
        case 5 | 8:
            return Result("rejected", metrics={"cost/flops": 2e6, "constraint/violation": 1 - close})
        case 9:
            return Result("pruned", values=values, steps_done=1)
        case _:
            # A rung below the last one leaves a checkpoint to resume.
            file = Artifact(f"artifacts/{number}/attempt-1/{CHECKPOINT}.pt", "0" * 64, 1)
            artifacts = {CHECKPOINT: file} if proposal.rung >= 0 else {}
            return Result("finished", values=values, steps_done=3, artifacts=artifacts)


def best_planted(factory: Factory, space: SearchSpace, seed: int, asks: int) -> float:
    """Return the best closeness to the planted optimum that a search of this many trials reaches."""
    strategy = factory(spec_of(space, seed=seed))
    best = -math.inf
    for number in range(asks):
        proposal = strategy.ask(number)
        if proposal is None:
            break
        if not isinstance(proposal, Measure):
            strategy.tell(number, outcome(space, number, proposal))
            continue
        close = closeness(space, proposal.architecture)
        best = max(best, close)
        strategy.tell(number, Result("finished", values=(close,), steps_done=3))
    return best


def closeness(space: SearchSpace, point: Architecture) -> float:
    """Return how near a point is to the planted optimum, 1 at the optimum itself: the mean over its decisions."""
    optimum = space.sample(random.Random("planted")).values
    alike = [
        _alike(space.domains[key], value, point.values[key]) if key in point.values else 0.0
        for key, value in optimum.items()
    ]
    return sum(alike) / len(alike)


def _alike(domain: Domain, a: object, b: object) -> float:
    """Return 1 for equal values; for numbers less, the further they are apart in their (logarithmic) range."""
    if (
        isinstance(domain, Choice)
        or domain.size == 1
        or not isinstance(a, (int, float))
        or not isinstance(b, (int, float))
    ):
        return float(a == b)
    scale: Callable[[float], float] = math.log if domain.log else float
    return 1 - abs(scale(a) - scale(b)) / (scale(domain.high) - scale(domain.low))
