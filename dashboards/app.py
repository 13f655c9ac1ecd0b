"""The web page over a runs folder: addresses, answers, and the stream that tells open pages of news."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from nasforge import registry
from nasforge.api.report import search_report
from nasforge.core.errors import NasforgeError
from nasforge.core.layout import REPORT
from nasforge.dashboards import pages
from nasforge.dashboards.library import Entry, Library, View, entries_in, entry_of, signature
from nasforge.views.explained import FOLDER
from nasforge.views.page import PAGE_STYLE
from nasforge.views.svg import STYLE

_HERE = Path(__file__).parent
_STYLES = (STYLE, PAGE_STYLE)
_TYPES = {".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PLOTLY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; frame-ancestors 'none'"
)
"""Policy of a page with a registered figure: Plotly writes a script into it, so it may reach nothing else."""
_LOOK_S = 1.0
"""Seconds between two looks at the files of an open page."""
_LOCAL = ("127.0.0.1", "localhost", "::1")
Page = Callable[[View, Mapping[str, str]], dict[str, Any]]


def create_app(
    runs_dir: Path, *, reading_s: float = 1.0, hosts: tuple[str, ...] = _LOCAL, stopping: Callable[[], bool] = bool
) -> FastAPI:
    """Return the application.

    Args:
        runs_dir: the runs folder.
        reading_s: seconds that a page waits for a journal that is not read yet.
        hosts: names by which a browser may call the server, so that no foreign page reads it under a name of its own;
            empty for any.
        stopping: tells open streams that the server ends.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    library = Library(runs_dir, reading_s)
    site = _Site(library)

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        if hosts and (request.url.hostname or "") not in hosts:
            return PlainTextResponse(f"This server answers to {', '.join(hosts)} only.\n", 421)
        response: Response = await call_next(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> HTMLResponse:
        return site.page("error.html", error.status_code, title="Not found", message=str(error.detail))

    @app.exception_handler(RequestValidationError)
    def misread(request: Request, error: RequestValidationError) -> HTMLResponse:
        message = f"There is nothing at {request.url.path[:200]}: a trial has a whole number."
        return site.page("error.html", 404, title="Not found", message=message)

    @app.exception_handler(NasforgeError)
    def broken(request: Request, error: NasforgeError) -> HTMLResponse:
        entry = entry_of(runs_dir, str(request.path_params.get("name", "")))
        message = str(error).removesuffix(".") + "."
        return site.page("error.html", 200, title=entry.name if entry else "Error", entry=entry, message=message)

    @app.get("/-/static/{file}")
    def static(file: str) -> Response:
        if file == pages.plug_ins.PLOTLY:
            return Response(pages.plug_ins.plotly_script(), media_type="text/javascript")
        path = next((style for style in _STYLES if style.name == file), _HERE / "static" / file)
        known = {*(style.name for style in _STYLES), *(one.name for one in (_HERE / "static").iterdir())}
        if file not in known or path.suffix not in _TYPES:
            raise HTTPException(404, f"There is no file {file}.")
        return Response(path.read_bytes(), media_type=_TYPES[path.suffix])

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/-/events")
    def news(request: Request, of: str = "") -> StreamingResponse:
        entry = entry_of(runs_dir, of) if of else None
        return StreamingResponse(_news(site, entry, request, stopping), media_type="text/event-stream")

    @app.get("/")
    def home(request: Request) -> HTMLResponse:
        return site.page("home.html", **pages.home.home(library, request.query_params))

    @app.get("/-/compare")
    def chosen(request: Request) -> Response:
        asked = request.query_params.getlist("searches")
        if len(asked) > 1:
            kept = {key: value for key, value in request.query_params.items() if key != "searches"}
            return RedirectResponse("/-/compare?" + urlencode({"searches": ",".join(asked), **kept}, safe=",:"), 303)
        names = dict.fromkeys(name for name in "".join(asked).split(",") if name)
        entries = [site.entry(name) for name in names]
        entries = [entry for entry in entries if entry.journal is not None or entry.kind == "campaign"]
        if not entries:
            raise HTTPException(404, "Choose searches to compare on the first page.")
        return site.page("home.html", **pages.campaign.chosen(library, entries, request.query_params))

    @app.get("/{name}")
    def result(name: str, request: Request) -> Response:
        entry = site.entry(name)
        if entry.kind == "campaign":
            return site.page("home.html", **pages.campaign.campaign(library, entry, request.query_params))
        if entry.journal is None:
            return site.page("result.html", **pages.fit.fit_only(entry))
        with library.view(entry) as view:
            if pages.base.has_result(view):
                return site.page("result.html", **pages.result.result(view))
        return RedirectResponse(f"/{quote(name)}/search", 303)

    for path, template, make in (
        ("search", "search.html", pages.search.search),
        ("trials", "trials.html", pages.trials.trials),
        ("importance", "importance.html", pages.importance.importance),
        ("how", "how.html", pages.how.how),
    ):
        app.get(f"/{{name}}/{path}")(site.endpoint(template, make))

    @app.get("/{name}/trials.csv")
    def as_csv(name: str, request: Request) -> Response:
        with library.view(site.searching(name), 60) as view:
            table = pages.trials.trial_table(view, request.query_params)
            stream = io.StringIO()
            rows = csv.writer(stream)
            rows.writerow(table.columns)
            rows.writerows(table.values(trial) for trial in table.trials)
        named = f"attachment; filename*=UTF-8''{quote(name)}-trials.csv"
        return Response(stream.getvalue(), media_type="text/csv", headers={"Content-Disposition": named})

    @app.get("/{name}/report.html")
    def report(name: str) -> Response:
        entry = site.entry(name)
        if entry.kind == "fit":  # a fit has written its own at its end
            if entry.folder / REPORT not in {entry.folder / file.path for file in pages.files.files_of(entry)}:
                raise HTTPException(404, f"{name} has no report yet.")
            content = (entry.folder / REPORT).read_bytes()
        else:
            with library.view(site.searching(name), 60) as view:
                text = view.drawn(("report",), lambda: search_report(view.reader))
            content = text.encode(errors="backslashreplace")
        named = f"attachment; filename*=UTF-8''{quote(name)}-report.html"
        return Response(content, media_type="text/html", headers={"Content-Disposition": named})

    @app.get("/{name}/trial/{number}")
    def trial(name: str, number: int) -> HTMLResponse:
        with library.view(site.searching(name)) as view:
            if number not in view.state.trials and not view.reader.behind:
                raise HTTPException(404, f"{name} has no trial {number}.")
            return site.page("trial.html", **pages.trial.trial(view, number))

    @app.get("/{name}/trial/{number}/log")
    def log(name: str, number: int) -> HTMLResponse:
        entry = site.searching(name)
        assert entry.journal is not None  # noqa: S101  (`searching` refuses others)
        return site.page("log.html", **pages.trial.log(entry.journal, number))

    @app.get("/{name}/networks")
    def networks(name: str, trials: str = "") -> HTMLResponse:
        entry = site.searching(name)
        with library.view(entry) as view:
            chosen = [view.state.trials[n] for n in pages.compare.numbers_of(trials) if n in view.state.trials]
            drawing = pages.network.networks_of(view, chosen)
        return HTMLResponse(drawing())

    @app.get("/{name}/winner")
    def winner(name: str) -> HTMLResponse:
        return HTMLResponse(pages.network.winner_drawing(site.entry(name)))

    @app.get("/{name}/importances")
    def importances(name: str) -> HTMLResponse:
        with library.view(site.searching(name)) as view:
            return HTMLResponse(pages.importance.importance_drawing(view))

    @app.get("/{name}/compare")
    def compare(name: str, request: Request) -> Response:
        asked = request.query_params.getlist("trials")
        if len(asked) > 1:
            return RedirectResponse(f"/{quote(name)}/compare?" + urlencode({"trials": ",".join(asked)}, safe=","), 303)
        with library.view(site.searching(name)) as view:
            return site.page("compare.html", **pages.compare.compare(view, asked[0] if asked else ""))

    @app.get("/{name}/figures/{figure}")
    def plotly(name: str, figure: str) -> HTMLResponse:
        if figure not in registry.names("figure"):
            raise HTTPException(404, f"There is no figure {figure}.")
        with library.view(site.searching(name)) as view:
            return HTMLResponse(pages.plug_ins.plotly_page(view, figure), headers={"Content-Security-Policy": _PLOTLY})

    @app.get("/{name}/files/{path:path}")
    def download(name: str, path: str) -> FileResponse:
        entry = site.entry(name)
        if path not in {file.path for file in pages.files.files_of(entry)}:
            raise HTTPException(404, f"{name} offers no file {path}.")
        return FileResponse(entry.folder / path, filename=Path(path).name, media_type="application/octet-stream")

    @app.get("/{name}/explained/{path:path}")
    def explained(name: str, path: str) -> FileResponse:
        entry = site.entry(name)
        if path not in {file for one in pages.files.explanations(entry) for _, file in one["pictures"]}:
            raise HTTPException(404, f"{name} has no picture {path}.")
        return FileResponse(entry.folder / FOLDER / path, media_type="image/png")

    return app


class _Site:
    """Templates and the entries of the runs folder, which all pages share."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters.update(pages.texts.FILTERS)

    def page(self, template: str, status: int = 200, **content: Any) -> HTMLResponse:
        base: dict[str, Any] = {
            "entry": None,
            "problem": "",
            "reading": None,
            "live": "",
            "tabs": (),
            "runs_dir": self.library.runs_dir,
        }
        text = self._templates.get_template(template).render({**base, **content})
        return HTMLResponse(text.encode(errors="backslashreplace"), status)  # a photo's name may be no UTF-8

    def entry(self, name: str) -> Entry:
        entry = entry_of(self.library.runs_dir, name)
        if entry is None:
            raise HTTPException(404, f"There is no experiment '{name}' in {self.library.runs_dir}.")
        return entry

    def searching(self, name: str) -> Entry:
        entry = self.entry(name)
        if entry.journal is None:
            raise HTTPException(404, f"{name} is not a search, or has not begun to search.")
        return entry

    def endpoint(self, template: str, make: Page) -> Callable[[str, Request], HTMLResponse]:
        def answer(name: str, request: Request) -> HTMLResponse:
            with self.library.view(self.searching(name)) as view:
                return self.page(template, **make(view, request.query_params))

        return answer

    def version(self, entry: Entry | None) -> str:
        """Return a text that changes when a page should be drawn again."""
        if entry is not None:
            return signature(entry)
        return "".join(entry.name + signature(entry) for entry in entries_in(self.library.runs_dir))


async def _news(site: _Site, entry: Entry | None, request: Request, stopping: Callable[[], bool]) -> AsyncIterator[str]:
    """One event at the start and at every change of files; a comment every 15 seconds keeps the connection open."""
    known: str | None = None
    spoke = time.monotonic()
    while not stopping() and not await request.is_disconnected():
        begun = time.process_time()
        version = await asyncio.to_thread(site.version, entry)
        spent = time.process_time() - begun
        if version != known:  # at first too: the files may have changed since the page was made
            yield (": here\n\n" if known is None else "") + "event: change\ndata: {}\n\n"
            spoke = time.monotonic()
        elif time.monotonic() - spoke > 15:
            yield ": here\n\n"
            spoke = time.monotonic()
        known = version
        end = time.monotonic() + max(_LOOK_S, 20 * spent)
        while time.monotonic() < end and not stopping():
            await asyncio.sleep(0.2)
