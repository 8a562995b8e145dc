"""Define the routes of the lineage pages. Each is a function from a request to the data of its template."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import duckdb
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from selfimprove_dagster.errors import PartitionMissing, SelfImproveError
from selfimprove_dagster.explorer import record, review, tables, views
from selfimprove_dagster.explorer.guard import guarded
from selfimprove_dagster.explorer.shown import environment, href
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lineage.walk import RecordNotFound
from selfimprove_dagster.text import readable

_FOLDER = Path(__file__).parent


_CHANGED = (duckdb.IOException, FileNotFoundError)
"""Errors that are raised when files are replaced while they are read."""


Shown = dict[str, Any]


View = Callable[[Request, Home], Shown | Response]


def create_app(home: Home, dagster_url: str, token: str | None = None) -> ASGIApp:
    """Return the app of the pages. It reads the home's lake again for every request.

    `token` admits reviewers; without it, nobody is admitted.
    """
    jinja = environment(str(_FOLDER / "templates"))
    jinja.globals["dagster_url"] = dagster_url.rstrip("/")
    app = Starlette(
        routes=[
            Route("/", _experiments),
            Route("/experiments/{name}", _experiment),
            Route("/experiments/{name}/{iteration:int}", _iteration),
            Route("/experiments/{name}/{iteration:int}/examples", _examples),
            Route("/experiments/{name}/{iteration:int}/rejected", _rejected),
            Route("/experiments/{name}/{iteration:int}/{which}", _more),
            Route("/records/{id}", _record),
            Route("/records/{id}/text", _text),
            Route("/search", _search),
            Route("/review", _reviews),
            Route("/review", _enter, methods=["POST"]),
            Route("/review/{name}", _review),
            Route("/review/{name}", _answer, methods=["POST"]),
            Route("/healthz", lambda request: PlainTextResponse("ok\n")),
            Mount("/static", StaticFiles(directory=_FOLDER / "static")),
        ],
        exception_handlers={
            HTTPException: _refused,
            RecordNotFound: _missing,
            PartitionMissing: _missing,
            SelfImproveError: _unable,
            Exception: _broken,
        },
    )
    app.state.home, app.state.jinja, app.state.token = home, jinja, token or token_urlsafe()
    return guarded(app)


def _render(request: Request, template: str, shown: Shown, status: int = 200) -> HTMLResponse:
    page = request.app.state.jinja.get_template(template)
    return HTMLResponse(page.render({"query": "", **shown}), status)


def _page(template: str) -> Callable[[View], Callable[[Request], Response]]:
    """Return an endpoint that renders a view. It retries once if the lake changed meanwhile."""

    def decorate(view: View) -> Callable[[Request], Response]:
        @wraps(view)
        def endpoint(request: Request) -> Response:
            home = request.app.state.home
            try:
                try:
                    shown = view(request, home)
                except _CHANGED:
                    shown = view(request, home)
            except _CHANGED:
                reason = "An iteration is writing the tables of this page right now. Reload the page."
                return _error(request, 503, "The lake is changing", reason)
            return shown if isinstance(shown, Response) else _render(request, template, shown)

        return endpoint

    return decorate


@_page("experiments.html")
def _experiments(request: Request, home: Home) -> Shown:
    return views.experiments(home)


@_page("experiment.html")
def _experiment(request: Request, home: Home) -> Shown:
    return views.experiment(home, request.path_params["name"])


@_page("iteration.html")
def _iteration(request: Request, home: Home) -> Shown:
    return views.iteration(home, request.path_params["name"], request.path_params["iteration"])


@_page("rows.html")
def _examples(request: Request, home: Home) -> Shown:
    name, iteration = request.path_params["name"], request.path_params["iteration"]
    return tables.examples(home, name, iteration, request.query_params)


@_page("rejected.html")
def _rejected(request: Request, home: Home) -> Shown:
    name, iteration = request.path_params["name"], request.path_params["iteration"]
    return tables.rejected(home, name, iteration, request.query_params)


@_page("rows.html")
def _more(request: Request, home: Home) -> Shown:
    name, iteration, which = (request.path_params[key] for key in ("name", "iteration", "which"))
    return tables.more(home, name, iteration, which, request.query_params)


@_page("record.html")
def _record(request: Request, home: Home) -> Shown | Response:
    asked = request.path_params["id"]
    elsewhere = record.place_of_activity(home.lake, asked)
    if elsewhere:
        return RedirectResponse(elsewhere, 302)
    shown = record.record(home.lake, asked)
    return RedirectResponse(href(shown["id"]), 302) if shown["id"] != asked else shown


@_page("")
def _text(request: Request, home: Home) -> Response:
    return PlainTextResponse(readable(record.whole_text(home.lake, request.path_params["id"])) + "\n")


@_page("search.html")
def _search(request: Request, home: Home) -> Shown | Response:
    query = request.query_params.get("q", "").strip()
    shown = views.search(home, query)
    return RedirectResponse(href(shown["record"]), 302) if shown["record"] else shown


@_page("review_entry.html")
def _reviews(request: Request, home: Home) -> Shown:
    return review.entry(request, home)


@_page("review.html")
def _review(request: Request, home: Home) -> Shown | Response:
    shown = review.item(request, home)
    return shown if shown["by"] else _render(request, "review_entry.html", shown)


async def _enter(request: Request) -> Response:
    form = await review.form_of(request)
    done = await run_in_threadpool(review.enter, request, request.app.state.home, form)
    return done if isinstance(done, Response) else _render(request, "review_entry.html", done, 403)


async def _answer(request: Request) -> Response:
    form = await review.form_of(request)
    return await run_in_threadpool(review.answer, request, request.app.state.home, form)


def _error(request: Request, status: int, title: str, reason: str) -> Response:
    return _render(request, "error.html", {"title": title, "reason": reason, "status": status}, status)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    titles = {404: "Page not found", 405: "This page is read-only"}
    response = _error(request, error.status_code, titles.get(error.status_code, error.detail), "")
    response.headers.update(error.headers or {})
    return response


def _missing(request: Request, error: Exception) -> Response:
    return _error(request, 404, "Not found", str(error))


def _unable(request: Request, error: Exception) -> Response:
    return _error(request, 409, "This cannot be shown", str(error))


def _broken(request: Request, error: Exception) -> Response:
    reason = "This is a bug in the lineage pages. The terminal in which they run shows the error."
    return _error(request, 500, "Something went wrong", reason)
