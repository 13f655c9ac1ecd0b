"""Links into MLflow's own page: the runs of a search, best first, with the columns that matter.

MLflow keeps a shared view as a tag of the experiment; a link names the tag. The tag's content is the state of the page
as its own button "Share" writes it, as plain JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

from nasforge.core.events import Header
from nasforge.core.goals import Objective

_TAG = "mlflow.sharedViewState."
_USUAL = ("val/accuracy", "test/accuracy", "cost/params", "cost/flops")
_TAGS = ("nasforge.role", "nasforge.status", "nasforge.pareto")


def columns_tag(header: Header, key: str, *, pooled: bool) -> tuple[str, str]:
    """Return name and value of the experiment's tag that holds the view of one search.

    Args:
        header: of the search; its first objective decides the order.
        key: of the search's runs.
        pooled: whether the experiment has runs of other searches.
    """
    goals = [Objective.recorded(text) for text in header.config["objectives"]]
    metrics = dict.fromkeys([*(goal.metric for goal in goals), *_USUAL])
    columns = [*(f"metrics.`{name}`" for name in metrics), *(f"tags.`{name}`" for name in _TAGS)]
    return view_tag(key, (f"metrics.`{goals[0].metric}`", not goals[0].maximise), columns, pooled=pooled)


def view_tag(key: str, order: tuple[str, bool], columns: Sequence[str], *, pooled: bool) -> tuple[str, str]:
    """Return name and value of the experiment's tag that holds a view.

    Args:
        key: of the runs to show.
        order: the column to sort by, and whether in ascending order.
        columns: to show.
        pooled: whether the experiment has other runs.
    """
    state = {
        "searchFilter": f"tags.`nasforge.key` = '{key}'" if pooled else "",
        "orderByKey": order[0],
        "orderByAsc": order[1],
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
    }
    return _TAG + share_key(key), json.dumps(state)


def share_key(key: str) -> str:
    """Return what a link calls the view of the search with this key."""
    return f"nasforge-{key[:12]}"


def link(address: str, experiment_id: str = "", key: str = "") -> str:
    """Return the URL of MLflow's page: of one search, or without an experiment of all.

    Args:
        address: of the server, such as `http://127.0.0.1:5000`.
        experiment_id: MLflow's.
        key: of the search's runs; empty where the experiment holds no view of them.
    """
    page = f"{address.rstrip('/')}/#/experiments"
    if not experiment_id:
        return page
    view = f"?viewStateShareKey={quote(share_key(key))}" if key else ""
    return f"{page}/{quote(experiment_id)}/runs{view}"
