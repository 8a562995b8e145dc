"""The lineage pages as a visitor without a browser sees them."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

from starlette.testclient import TestClient

from kit.small_lake import KnownAncestry
from selfimprove_dagster.explorer.pages import create_app
from selfimprove_dagster.home.home import Home

DAGSTER = "http://127.0.0.1:3000"


def client(home: Home) -> TestClient:
    return TestClient(create_app(home, DAGSTER), base_url="http://127.0.0.1:3001", follow_redirects=False)


class Outline(HTMLParser):
    """The page as a parser sees it: tags with their attributes, and whether they close in order."""

    VOID = ("meta", "link", "input", "br", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def inert(page: str) -> None:
    """No element or attribute of the page comes from a text."""
    for tag, attributes in Outline(page).tags:
        assert tag != "img" and not any(name.startswith("on") or name == "style" for name in attributes)
        if tag == "script":
            assert attributes.get("type") == "application/json" or (attributes["src"] or "").startswith(
                "/static/"
            )
        assert not (attributes.get("href") or "").lower().startswith(("javascript:", "data:", "//"))
    assert "\x1b" not in page and "‮" not in page and "​" not in page and "49 &#39;" not in page


def every_page(known: KnownAncestry) -> list[str]:
    records = [known.seed, known.question, known.demonstrations[0], known.paths[1], known.vote, known.example]
    return [
        "/",
        "/experiments/demo",
        "/experiments/demo/0",
        "/experiments/demo/0/examples",
        "/experiments/demo/0/rejected",
        *(f"/records/{record}" for record in records),
        "/search?q=window.hacked",
        "/search?q=nothing+has+this",
    ]


def seen(home: Home, address: str) -> str:
    answer = client(home).get(address)
    assert answer.status_code == 200, address
    inert(answer.text)
    return answer.text


def said(page: str) -> str:
    """The words of a page as a person reads them."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())
