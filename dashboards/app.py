"""The dashboard's first page: the experiments of a runs folder, live. A view of the journals; it writes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import streamlit as st

from nasforge import registry
from nasforge.core.command_line import command_for, command_line
from nasforge.core.errors import JournalError, NasforgeError, TrustError
from nasforge.core.metrics import title_of
from nasforge.core.trust import view
from nasforge.experiment.journal import experiment_of
from nasforge.experiment.state import State, load_state
from nasforge.views import figures, tables
from nasforge.views.drawing import network_figure

REFRESH_S = 3
TOP = 20
_PLACED = ("best_so_far", "pareto", "learning_curves", "failures")
"""Figures that have a place of their own on the page; the others share a tab."""
_NUMBERS = {
    "val/accuracy": "%.4f",
    "val/loss": "%.4f",
    "val/f1_macro": "%.4f",
    "cost/params": "%d",
    "cost/flops": "compact",
    "cost/latency_ms": "%.2f",
    "time/train_s": "%.1f",
}


def main() -> None:
    """Draw the page."""
    st.set_page_config(page_title="NASForge", page_icon=":material/account_tree:", layout="wide")
    runs_dir = Path(os.environ.get("NASFORGE_RUNS_DIR", "runs"))
    with st.sidebar:
        st.title("NASForge")
        st.caption(f"Runs folder: `{runs_dir}`")
        names = [row["experiment"] for row in tables.experiments(runs_dir)]
        chosen = st.selectbox("Experiment", names, key="experiment") if names else None
        live = st.toggle("Live", value=True, key="live", help=f"Read the journal anew every {REFRESH_S} seconds")
    if chosen is None:
        _welcome(runs_dir)
        return
    st.fragment(_experiment, run_every=REFRESH_S if live else None)(runs_dir, chosen)


def _welcome(runs_dir: Path) -> None:
    st.header("No experiment yet")
    st.write(f"There is no experiment in `{runs_dir}`. Start one, and reload this page:")
    command = command_line("search", "tiny", "--data", "digits", "--max-trials", "12", "--runs-dir", runs_dir)
    st.code(command, language="bash")


def _experiment(runs_dir: Path, name: str) -> None:
    st.header(name)
    try:
        state = load_state(experiment_of(runs_dir / name))
    except JournalError as error:
        st.error(f"This experiment's journal cannot be read.\n\n{error}", icon=":material/error:")
        return
    _headline(state)
    more = [name for name in registry.names("figure") if name not in _PLACED]
    tabs = st.tabs(
        ["Overview", "Learning curves", "Trials", "Failures", "All experiments", *(["More figures"] * bool(more))]
    )
    with tabs[0]:
        _overview(state)
    with tabs[1]:
        metrics = sorted(
            {key for t in state.trials.values() for step in t.steps for key in step.metrics if _shown(key)}
        )
        first = metrics.index("val/accuracy") if "val/accuracy" in metrics else 0
        metric = st.selectbox("Metric", metrics, index=first, key="curve") if metrics else "val/accuracy"
        _figure(figures.learning_curves_figure(state, metric), "learning_curves")
    with tabs[2]:
        _trials(experiment_of(runs_dir / name), state)
    with tabs[3]:
        _failures(state)
    with tabs[4]:
        share = st.column_config.ProgressColumn("budget used", format="percent", min_value=0, max_value=1)
        rows = tables.experiments(runs_dir)
        st.dataframe(rows, hide_index=True, key="experiments", column_config={"budget_used": share})
    for name in more:
        with tabs[-1]:
            _more(name, state)


def _more(name: str, state: State) -> None:
    """Draw a registered figure that has no place of its own; one that breaks must not take the page with it."""
    st.subheader(name.replace("_", " ").capitalize())
    try:
        figure = registry.get("figure", name)(state)
    except Exception as error:
        st.error(f"The figure '{name}' cannot be drawn: {type(error).__name__}: {error}", icon=":material/error:")
        return
    _figure(figure, f"figure-{name}")


def _figure(figure: Any, key: str) -> None:
    st.plotly_chart(figure, key=key, config={"displayModeBar": False})


def _headline(state: State) -> None:
    summary = tables.summary(state)
    st.caption(
        f"space **{summary['space']}** · strategy **{summary['strategy']}** · data **{summary['data'] or '–'}** · "
        f"objectives **{', '.join(str(goal) for goal in state.objectives)}**"
        + (f" · constraints **{', '.join(str(limit) for limit in state.constraints)}**" if state.constraints else "")
    )
    goal = state.objectives[0]
    best = summary[f"best {goal.metric}"]
    cells = [(f"Best {title_of(goal.metric)}", "–" if best is None else f"{best:.4f}")]
    cells += [(status.capitalize(), str(amount)) for status, amount in state.counts().items()]
    for column, (label, value) in zip(st.columns(len(cells)), cells, strict=True):
        column.metric(label, value)
    used = summary["budget_used"]
    if used is not None:
        st.progress(used, text=f"{used:.0%} of the budget used ({state.charged.worker_seconds:,.0f} worker-seconds)")


def _overview(state: State) -> None:
    left, right = st.columns(2)
    with left:
        st.subheader("Best so far")
        _figure(figures.best_so_far_figure(state), "best_so_far")
    with right:
        st.subheader("Pareto front")
        _figure(figures.pareto_figure(state, *_axes(state)), "pareto")
    st.subheader("Leaderboard")
    rows = tables.leaderboard(state, TOP)
    if rows:
        _table(rows, "leaderboard", state)
    else:
        st.info("No trial has finished yet.")


def _axes(state: State) -> tuple[str, str]:
    """The first two objectives, costs across; FLOPs where there is one objective only."""
    metrics = [goal.metric for goal in state.objectives]
    if len(metrics) == 1:
        metrics.append("cost/flops" if metrics[0] != "cost/flops" else "cost/params")
    first, second = metrics[:2]
    return (first, second) if first.startswith("cost/") else (second, first)


def _trials(folder: Path, state: State) -> None:
    if not state.trials:
        st.info("No trial has been asked for yet.")
        return
    best = state.best
    numbers = sorted(state.trials)
    start = numbers.index(best.number) if best else 0
    number = st.selectbox("Trial", numbers, index=start, key="trial", format_func=lambda n: _label(state, n))
    trial = state.trials[number]
    left, right = st.columns(2)
    with left:
        st.subheader("Architecture")
        rows = [{**row, "value": str(row["value"])} for row in tables.decisions(trial)]
        if rows:
            st.dataframe(rows, hide_index=True, height="content", key="decisions")
        else:
            st.write("A shared training of a supernet: it has no point of its own.")
    with right:
        st.subheader("Metrics")
        metrics = [{"metric": key, "value": value} for key, value in sorted(trial.metrics.items()) if _shown(key)]
        st.dataframe(metrics, hide_index=True, height="content", key="metrics")
        if trial.result and trial.result.error:
            st.error(f"**{trial.result.error.cause}**: {trial.result.error.message}\n\n{trial.result.error.advice}")
        if trial.architecture is not None:
            st.subheader("Network")
            drawn = _drawing(str(folder), number, trial.architecture.arch_id)
            if isinstance(drawn, str):
                st.caption(drawn)
            else:
                _figure(drawn, "network")
    st.subheader("All trials")
    _table(tables.all_trials(state), "all_trials", state)


@st.cache_data(max_entries=100, show_spinner="Drawing the network ...")  # type: ignore[untyped-decorator]
def _drawing(folder: str, number: int, arch_id: str) -> Any:
    """The network of a trial, or why it cannot be drawn; `arch_id` tells a folder's experiments apart."""
    from nasforge.views.parts import parts_of_trial  # torch, not before it is needed

    state = load_state(Path(folder))
    try:
        with view():
            parts = parts_of_trial(Path(folder), state, state.trials[number])
    except TrustError as error:
        command = command_for(Path(folder), "show", "--trial", str(number), "--draw", "network.html")
        return f"Not drawn: {error}. Draw it by: {command}"
    except NasforgeError as error:
        return f"Not drawn: {error}"
    return network_figure({f"trial {number}, {arch_id}": parts})


def _label(state: State, number: int) -> str:
    trial = state.trials[number]
    arch_id = f" · {trial.architecture.arch_id}" if trial.architecture else ""
    return f"trial {number} · {trial.status}{arch_id}"


def _failures(state: State) -> None:
    rows = tables.failures(state)
    if not rows:
        st.success("No trial has failed.")
        return
    _figure(figures.failures_figure(state), "failures_figure")
    shown = [{**row, "trials": ", ".join(str(number) for number in row["trials"])} for row in rows]
    st.dataframe(shown, hide_index=True, key="failures")


def _shown(key: str) -> bool:
    """Whether a metric is for people; the rest is the budget's book-keeping."""
    return key != "time/worker_s" and not key.startswith("work/")


def _table(rows: list[dict[str, Any]], key: str, state: State) -> None:
    """Trials as a table: what they are, the objectives, then the other metrics."""
    about = dict.fromkeys(name for row in rows for name in row if name != "metrics")
    measured = {name for row in rows for name in row["metrics"] if _shown(name)}
    goals = [goal.metric for goal in state.objectives if goal.metric in measured]
    metrics = [*goals, *sorted(measured.difference(goals))]
    flat = [{**{name: row[name] for name in about}, **{m: row["metrics"].get(m) for m in metrics}} for row in rows]
    formats = {name: st.column_config.NumberColumn(format=_NUMBERS.get(name, "%.4g")) for name in metrics}
    st.dataframe(flat, hide_index=True, key=key, column_config=formats)


if __name__ == "__main__":
    main()
