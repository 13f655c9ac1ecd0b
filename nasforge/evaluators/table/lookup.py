"""The evaluator that looks up: a table of measured points instead of training, on the table's own clock."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from nasforge.core.about import About
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, ConfigError, did_you_mean
from nasforge.core.goals import Constraint, Objective
from nasforge.core.ladder import Rung, proxy_metric
from nasforge.core.metrics import ask_for_direction, better, column_direction, direction
from nasforge.core.paths import whole_path
from nasforge.core.protocols import Report
from nasforge.core.space import LISTED
from nasforge.core.trial import CHARGES, Charge, Measure, Proposal, Result, Score, TrainShared
from nasforge.evaluators.table.columns import Asked, Columns, columns_of
from nasforge.evaluators.table.conversion import GUIDE
from nasforge.evaluators.table.file import open_table
from nasforge.settings.spec import SearchSpec
from nasforge.settings.values import signal_metric

_COST = "cost/"


class LookupTable:
    """Evaluator that looks up every Measure in a table; time and work are the table's, never the clock's.

    A CSV, JSON or NPZ file, one row per point. A trial whose number is NaN or infinite has failed; one that is not in
    the table ends the search with an error (see `partial`). Light to pickle: another process reads the file again,
    once.
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        path: str,
        signal: str | None = None,
        key: str | None = None,
        key_form: str | None = None,
        labels: object = None,
        axes: str | None = None,
        fidelity: dict[Any, str] | None = None,
        final: str | None = None,
        metric: str | None = None,
        metrics: dict[str, str] | None = None,
        costs: dict[str, str] | None = None,
        proxies: dict[str, str] | None = None,
        seconds: float | str = 1.0,
        multiply_adds: float | str = 0.0,
        partial: bool = False,
    ) -> None:
        """Read the table and check that it has the requested columns.

        Args:
            spec: the facts of the search: the rungs' epochs are looked up among the fidelities, the objectives give the
                direction of the optimum. Data and recipe are unused: nothing is trained, and costs are the table's too.
            path: an NPZ or JSON file, or a text file with a header line.
            signal: column of the number that the search sees; with `{epochs}` in it (`val_e{epochs}`) one column for
                each fidelity.
            key: column with the text of each point; left out: one column per decision, named like it.
            key_form: what that text is: text, canonical, arch_id or point_id; None: the space's `text`, else its
                `canonical` form.
            labels: refused; the table holds the texts themselves.
            axes: JSON file with the axes of the NPZ's arrays, for tables that are grids.
            fidelity: epochs -> column of the signal, instead of `signal`.
            final: column of the last row of a comparison (a test accuracy); the search never sees it. Its direction is
                the first objective's, unless `min:` or `max:` stands before the column.
            metric: what the signal is called; left out, `val/accuracy`, or by a column whose name is one of something
                to minimise: `val/mse` of `valid_mse`.
            metrics: further numbers of a result, metric -> column (or columns, as `signal`), such as `val/loss: loss`.
            costs: `params`, `flops`, `latency_ms`, `memory_mb` or another -> column; constraints are checked by them.
            proxies: name -> column, for a rung of zero-cost proxies.
            seconds: virtual seconds of a whole evaluation, or their column; a part of the epochs costs that part. With
                `{epochs}` the seconds until each fidelity.
            multiply_adds: the same of multiply-adds.
            partial: a point without a row fails alone and uncharged, as one that cannot be built.

        Raises:
            ConfigError, DataError: the file, a column, the ladder or a limit do not fit.
        """
        if (signal is None) == (not fidelity):
            raise ConfigError(
                "evaluator 'lookup_table' needs signal (the column that the search sees) or fidelity (epochs -> "
                "column), one of them",
                kind="conflict",
                key="evaluator.signal",
            )
        if labels is not None or not isinstance(key, str | None):
            option, what = ("key", "one column") if labels is None else ("labels", "no option any more")
            raise ConfigError(
                f"evaluator 'lookup_table': {option} is {what}. Write a column for each decision, named like it and "
                f"with its values, into the table; {GUIDE}",
                kind="removed",
                key=f"evaluator.{option}",
            )
        self.space = spec.space
        self.ladder = spec.ladder
        self.path = whole_path(path)
        self.metric = signal_metric({"metric": metric, "signal": signal, "fidelity": fidelity}, spec.objectives)
        self.partial = partial
        self._axes = None if axes is None else whole_path(axes)
        named = {_COST + name.removeprefix(_COST): column for name, column in (costs or {}).items()}
        self._asked = Asked(
            key=key,
            key_form=key_form,
            signal=signal,
            fidelity=tuple((_epochs(step), column) for step, column in (fidelity or {}).items()),
            final=None if final is None else final.removeprefix("min:").removeprefix("max:"),
            metrics=tuple((metrics or {}).items()),
            costs=tuple(named.items()),
            proxies=tuple((proxies or {}).items()),
            seconds=seconds,
            multiply_adds=multiply_adds,
        )
        self.final_metric = self._asked.final
        self._maximise = self._direction(spec.objectives)
        self._guessed = metric is None and self._maximise is True and not self._says_so()
        self._cached_columns: Columns | None = None
        self._required_costs = spec.costs
        self._check_ladder()
        self._require(self._required_costs)

    def _signals(self) -> list[str]:
        """Return the names of the signal's columns."""
        return [column for _, column in self._asked.fidelity] or [str(self._asked.signal)]

    def _says_so(self) -> bool:
        """Return whether the names of the signal's columns tell that it is to be maximised."""
        return all(column_direction(column) is True for column in self._signals())

    def _direction(self, objectives: Sequence[Objective]) -> bool | None:
        """Return whether more of the signal is better, by the objective or the metric's name; None: neither tells.

        Raises:
            ConfigError: the objective goes by the metric's name, and a column's name says the opposite.
        """
        goals = {objective.metric: objective.maximise for objective in objectives}
        named = {self.metric: self._signals(), **{name: [column] for name, column in self._asked.metrics}}
        for metric, columns in named.items():
            maximise = goals.get(metric)
            if maximise is None or maximise is not direction(metric):
                continue
            for column in columns:
                if column_direction(column) is (not maximise):
                    raise ConfigError(
                        f"evaluator 'lookup_table': by its name, column '{column}' is to "
                        f"{'minimise' if maximise else 'maximise'}, but the objective is {better(maximise)}:{metric}. "
                        "Name the metric by its direction (metric: val/loss, objectives: [val/loss]), or set the "
                        f"direction of another name (metric: val/x, objectives: [{better(maximise)}:val/x])",
                        kind="conflict",
                        key="objectives",
                    )
        return goals.get(self.metric, direction(self.metric))

    @property
    def _columns(self) -> Columns:
        if self._cached_columns is None:
            file = open_table(self.path, self._axes)
            self._cached_columns = columns_of(self.space, file, self._asked)
        return self._cached_columns

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_cached_columns": None}

    def _check_ladder(self) -> None:
        fidelities = self._columns.fidelities
        for rung in self.ladder:
            if not rung.full:
                raise ConfigError(
                    f"table {self.path}: it has no trainings on fewer or smaller images, but the ladder has the "
                    f"rung {rung}; leave share and resolution out",
                    kind="unsupported",
                    key="ladder",
                )
            missing = [name for name in rung.proxies if name not in self._columns.proxies]
            if missing:
                raise ConfigError(
                    f"table {self.path}: the ladder has proxies {', '.join(missing)}; name their columns: "
                    f"proxies: {{{missing[0]}: COLUMN}}",
                    kind="missing",
                    key="evaluator.proxies",
                )
        wrong = [rung.epochs for rung in self.ladder if rung.epochs and fidelities and rung.epochs not in fidelities]
        if wrong:
            known = ", ".join(map(str, fidelities[:20])) + (" ..." if len(fidelities) > 20 else "")
            rungs = ", ".join(f"{{epochs: {epochs}}}" for epochs in (fidelities[0], fidelities[-1]))
            raise ConfigError(
                f"table {self.path}: the ladder's epochs {', '.join(map(str, wrong))} have no column; known are "
                f"{known}. Set in the experiment's file: ladder: [{rungs}], or give one column as signal",
                kind="missing",
                key="ladder",
            )

        last = self.ladder[-1].epochs
        if not any(map(math.isfinite, self._columns.signal[fidelities.index(last) if last in fidelities else -1])):
            raise ConfigError(
                f"table {self.path}: the signal has no number in any row; choose another column",
                kind="empty",
                key="evaluator.signal",
            )

    # --- what it knows ----------------------------------------------------------------------------------------------

    @property
    def about(self) -> About:
        """The facts of this evaluator; its fingerprint is the file's."""
        columns = self._columns
        return About(
            metrics=(self.metric, *columns.metrics, *columns.costs, *CHARGES),
            data_hash=open_table(self.path, self._axes).fingerprint,
            instant=True,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        """Return notes for the user: the table knows longer trainings, or a direction was guessed."""
        last, known = self.ladder[-1].epochs, self._columns.fidelities
        notes = []
        if known and last != known[-1]:
            notes.append(
                f"trials are measured at epoch {last}, where the ladder ends; the table knows them until epoch "
                f"{known[-1]} (ladder: [{{epochs: {last}}}, {{epochs: {known[-1]}}}])"
            )
        if self._guessed:
            notes.append(
                f"column '{self._signals()[0]}' is called {self.metric}, so the search maximises it. If lower is "
                "better, name it: --set evaluator.metric=val/loss --objective val/loss"
            )
        return tuple(notes)

    def optimum(self, limits: Sequence[Constraint] = ()) -> float | None:
        """Return the best signal at the ladder's last rung among the rows that keep these limits: a search's ceiling.

        Returns:
            None where no row that is a point of the space has a number and keeps the limits.

        Raises:
            ConfigError: the table does not have a limit's cost, or the signal has no direction.
        """
        return self._extreme(limits, best=True)

    def worst(self, limits: Sequence[Constraint] = ()) -> float | None:
        """Return the worst signal among the rows that keep these limits. Returns and raises as `optimum`."""
        return self._extreme(limits, best=False)

    def _extreme(self, limits: Sequence[Constraint], *, best: bool) -> float | None:
        columns, last = self._columns, max(rung.epochs for rung in self.ladder)
        self._require([limit.metric for limit in limits])
        count = columns.fidelities.index(last) + 1 if last in columns.fidelities else len(columns.signal)
        seen = columns.signal[:count]  # a point without a number at a lower fidelity fails there

        def kept(row: int) -> bool:
            costs = {limit.metric: columns.costs[limit.metric][row] for limit in limits}
            return not any(map(math.isnan, costs.values())) and not any(limit.violation(costs) for limit in limits)

        rows = [row for row in self._points() if all(math.isfinite(column[row]) for column in seen)]
        values = [seen[-1][row] for row in rows if kept(row)]
        if self._maximise is None:
            raise ask_for_direction(self.metric)
        return (max if self._maximise is best else min)(values, default=None)

    def _points(self) -> Iterable[int]:
        """Return the rows that are points of the space; all rows if keys are texts and the points are too many."""
        rows = self._columns.rows
        if len(rows.numbers) == self.space.size or self.space.size > LISTED:
            return rows.numbers
        numbers = {rows.row_of(point) for point in self.space.points()}
        return sorted(row for row in numbers if row is not None)

    def _require(self, metrics: Collection[str]) -> None:
        """Require a column for every cost: raises ConfigError."""
        for metric in sorted(metrics):
            if metric not in self._columns.costs:
                name = metric.removeprefix(_COST)
                raise ConfigError(
                    f"{metric}: no column of the table is named for it: --set evaluator.costs.{name}=COLUMN; "
                    f"{did_you_mean(metric, self._columns.costs)}",
                    kind="missing",
                    key=metric,
                )

    def final(self, architecture: Architecture) -> float:
        """Return a point's number in the column `final`, which no result ever has.

        Raises:
            ConfigError: no such column is named, or the point is not in the table.
        """
        column = self._columns.final
        if column is None:
            raise ConfigError(
                f"table {self.path}: no column is named for final figures. Set evaluator.final=COLUMN",
                kind="missing",
                key="evaluator.final",
            )
        return column[self._row(architecture)]

    def check(self, proposal: Proposal) -> dict[str, float]:
        """Return the table's `cost/*` of a point, without building a network.

        Raises:
            ConfigError: the point is not in the table.
            BuildError: a cost that limits or objectives need is NaN, or the point has no row in a partial table.
        """
        if not isinstance(proposal, Measure):
            return {}
        costs = self._costs(proposal.architecture)
        unknown = [metric for metric in sorted(self._required_costs) if math.isnan(costs[metric])]
        if unknown:
            raise BuildError(
                f"table {self.path}: {', '.join(unknown)} of this point is unknown; complete the table",
                kind="missing",
                key=unknown[0],
            )
        return costs

    def _costs(self, architecture: Architecture) -> dict[str, float]:
        row = self._row(architecture)
        return {name: column[row] for name, column in self._columns.costs.items()}

    def _row(self, architecture: Architecture) -> int:
        row = self._columns.rows.row_of(architecture)
        if row is not None:
            return row
        problem = self._columns.rows.missing(architecture)
        if self.partial:
            raise BuildError(problem, kind="missing")
        near = self._columns.rows.nearest(architecture)
        between = [name for name, domain in self.space.domains.items() if math.isinf(domain.size)]
        advice = f"No table has every value of {', '.join(between)}: list its own in the space. " if between else ""
        raise ConfigError(
            f"{problem}{f'; the nearest row is {near}' if near else ''}. {advice}If the table covers only part of "
            "the space, set partial: true",
            kind="missing",
        )

    # --- measuring --------------------------------------------------------------------------------------------------

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        """Return the row's numbers; with fidelities report each up to the rung's epochs."""
        if isinstance(proposal, TrainShared):
            raise ConfigError(
                "evaluator 'lookup_table' trains no supernet; use evaluator 'shared_weights'",
                kind="unsupported",
                key="evaluator",
            )
        if isinstance(proposal, Measure) and proposal.weights is not None:
            raise ConfigError(
                "evaluator 'lookup_table' cannot measure inherited weights; use evaluator 'shared_weights'",
                kind="unsupported",
                key="evaluator",
            )
        rung, columns = self.ladder[proposal.rung], self._columns
        if rung.proxies:
            return self._scored(proposal, rung)
        if isinstance(proposal, Score):
            raise ConfigError(
                "evaluator 'lookup_table' answers one point per trial; use a rung of proxies for a batch",
                kind="unsupported",
                key="evaluator",
            )
        row = self._row(proposal.architecture)
        result = Result("finished")
        for index, epochs in enumerate(columns.fidelities or (rung.epochs,)):
            if epochs > rung.epochs:
                break
            charged = Charge(columns.seconds[index][row], columns.multiply_adds[index][row])
            value = columns.signal[index][row]
            if not math.isfinite(value):
                message = f"table {self.path}: the signal has no number for this point at epoch {epochs}"
                return Result.failed("diverged", message, "it is the table's word that this point failed", charged)
            metrics = {self.metric: value, "time/worker_s": charged.worker_seconds}
            metrics |= {"work/multiply_adds": charged.multiply_adds} if charged.multiply_adds else {}
            for name, further in columns.metrics.items():
                if len(further) > 1 or epochs == rung.epochs:
                    metrics[name] = further[min(index, len(further) - 1)][row]
            result = Result("finished", metrics, steps_done=epochs, charged=charged)
            if columns.fidelities and not report(epochs, metrics):
                return Result("pruned", metrics, steps_done=epochs, charged=charged)
        return result

    def _scored(self, proposal: Measure | Score, rung: Rung) -> Result:
        """Return the proxies of a batch; they cost nothing, since the table does not record their cost."""

        def scores(point: Architecture) -> dict[str, float]:
            try:
                row = self._row(point)
            except BuildError:  # a partial table; the others of the batch are not to blame
                return {proxy_metric(name): math.nan for name in rung.proxies}
            return {proxy_metric(name): self._columns.proxies[name][row] for name in rung.proxies} | self._costs(point)

        if isinstance(proposal, Measure):
            return Result("finished", scores(proposal.architecture))
        return Result("finished", scores=tuple(map(scores, proposal.architectures)))


def _epochs(step: Any) -> int:
    try:
        epochs = int(str(step))
    except ValueError:
        epochs = 0
    if epochs < 1:
        raise ConfigError(
            f"evaluator 'lookup_table': fidelity must map epochs to columns, got {step!r}",
            kind="type",
            key="evaluator.fidelity",
        )
    return epochs
