"""Serve the review pages, on which people label pairs. They are the only pages that write.

A form is accepted on three conditions: the browser reports that a page of this server sent it (Origin), its
cookie holds the token that was created when the server started, and the form holds a word that is derived
from that token. The cookie is hidden from scripts and from other sites.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from secrets import compare_digest
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from selfimprove_dagster.errors import ReviewError
from selfimprove_dagster.explorer.guard import same_origin
from selfimprove_dagster.explorer.views import refuse_unknown
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.review.queue import (
    CHOICES,
    Review,
    labels,
    last_iteration,
    now,
    queue_length,
    review_queue,
    reviewer,
    store_review,
)

Form = Mapping[str, str]


_TOKEN, _REVIEWER = "review_token", "reviewer"


_YEAR = 365 * 24 * 3600


_LARGEST_FORM = 64_000


_MOST_ITEMS = 1_000


async def form_of(request: Request) -> Form:
    """Return the fields of a posted form.

    Raises HTTPException if the form is from elsewhere, too large, or malformed.
    """
    if not same_origin(request):
        raise HTTPException(403, "This form came from another page")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_FORM:
            raise HTTPException(413, "This form is too large")
    try:
        fields = parse_qs(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=20,
        )
    except ValueError:
        raise HTTPException(400, "This is not a form of these pages") from None
    return {name: values[-1].replace("\r\n", "\n") for name, values in fields.items()}


def form_word(token: str) -> str:
    """Return the word that a form must hold. It is derived from the token, which no page shows."""
    return blake2b(b"form", key=token.encode(), digest_size=16).hexdigest()


def admitted(request: Request) -> str:
    """Return the reviewer's name; empty if the token or the name is missing."""
    given = request.cookies.get(_TOKEN, "")
    if not compare_digest(given.encode(), request.app.state.token.encode()):
        return ""
    return unquote(request.cookies.get(_REVIEWER, ""))


def entry(request: Request, home: Home) -> dict[str, Any]:
    """Return the experiments with items to review, or the form that asks for the token and a name."""
    by = admitted(request)
    found = []
    for name in sorted({manifest.experiment for manifest in home.lake.manifests()}) if by else []:
        try:
            number = last_iteration(home.lake, name)
        except ReviewError:
            continue
        queue, said = review_queue(home.lake, name, number), labels(home.lake, name)
        mine = said.filter(by=by)
        left = len(queue.join(mine, on="item_id", how="anti"))
        found.append({"name": name, "iteration": number, "queued": len(queue), "left": left})
    return {"by": by, "experiments": found, **asking(request)}


def asking(request: Request, experiment: str = "", problem: str = "") -> dict[str, Any]:
    """Return the content of the form that asks for the token and a name."""
    return {
        "known_name": unquote(request.cookies.get(_REVIEWER, "")),
        "experiment": experiment,
        "problem": problem,
    }


def enter(request: Request, home: Home, form: Form) -> Response | dict[str, Any]:
    """Check the token and the name.

    Redirect to the requested page, or show the form again if one is wrong.
    """
    experiment = form.get("experiment", "")
    if experiment:
        refuse_unknown(home, experiment)
    if not compare_digest(form.get("token", "").strip().encode(), request.app.state.token.encode()):
        return {
            "by": "",
            "experiments": [],
            **asking(request, experiment, "The token is wrong. Copy it from the terminal."),
        }
    try:
        name = reviewer(form.get("by", ""))
    except ReviewError as error:
        return {"by": "", "experiments": [], **asking(request, experiment, str(error))}
    answer = RedirectResponse(f"/review/{quote(experiment, safe='')}" if experiment else "/review", 303)
    for cookie, value, age in ((_TOKEN, request.app.state.token, None), (_REVIEWER, quote(name), _YEAR)):
        answer.set_cookie(cookie, value, max_age=age, path="/review", httponly=True, samesite="strict")
    return answer


def item(request: Request, home: Home) -> dict[str, Any]:
    """Return one item of the queue: by default the first that the reviewer has not answered.

    `at` selects the item at this position, answered or not; `from` sets the position to start from.
    """
    name, asked = request.path_params["name"], request.query_params
    refuse_unknown(home, name)
    by = admitted(request)
    if not by:
        return {"by": "", "experiments": [], **asking(request, name)}
    lake = home.lake
    number = last_iteration(lake, name) if "iteration" not in asked else _number(asked, "iteration")
    count = queue_length(lake, name, number) if "count" not in asked else _number(asked, "count")
    rows = review_queue(lake, name, number, min(count, _MOST_ITEMS)).rows(named=True)
    mine = {row["item_id"]: row for row in labels(lake, name).filter(by=by).iter_rows(named=True)}
    left = [place for place, row in enumerate(rows) if row["item_id"] not in mine]
    if "at" in asked:
        place = min(_number(asked, "at"), len(rows) - 1) if rows else None
    else:
        start = _number(asked, "from") if "from" in asked else 0
        place = next((one for one in left if one >= start), left[0] if left else None)
    row = None if place is None else rows[place]
    return {
        "by": by,
        "name": name,
        "iteration": number,
        "count": count,
        "queued": len(rows),
        "answered": len(rows) - len(left),
        "place": place,
        "item": row,
        "earlier": _as_shown(mine[row["item_id"]]["label"], row) if row and row["item_id"] in mine else "",
        "word": form_word(request.app.state.token),
    }


def _number(asked: Mapping[str, str], field: str) -> int:
    text = asked[field]
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise HTTPException(400, f"{field} must be a whole number")
    return int(text)


def _as_shown(label: str, row: Mapping[str, Any]) -> str:
    """Return a stored label in terms of the order in which the options were shown."""
    if label not in ("first", "second"):
        return label
    return "A" if (label == "first") != row["swapped"] else "B"


def answer(request: Request, home: Home, form: Form) -> Response:
    """Store the answer to one item and redirect to the next item."""
    by = admitted(request)
    if not by:
        raise HTTPException(403, "The token is missing or outdated, e.g. because the server was restarted")
    word = form_word(request.app.state.token)
    if not compare_digest(form.get("word", "").encode(), word.encode()):
        raise HTTPException(403, "This form is not from these pages")
    name = request.path_params["name"]
    refuse_unknown(home, name)
    if form.get("label") not in CHOICES:
        raise HTTPException(400, f"The answer must be one of {', '.join(CHOICES)}")
    places = {key: _number(form, key) for key in ("iteration", "count", "place")}
    review = Review(form.get("item", ""), form["label"], by, now(), form.get("note", ""))
    store_review(home.lake, name, review)
    after = f"from={places['place'] + 1}&iteration={places['iteration']}&count={places['count']}"
    return RedirectResponse(f"/review/{quote(name, safe='')}?{after}", 303)
