"""The review page in Chromium: a person judges with the keyboard alone, on a phone, without a script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.browser import PHONE, served, visit
from kit.review_lake import add_preferences
from kit.small_lake import demo_home

from selfimprove_dagster.home.home import Home
from selfimprove_dagster.review.queue import labels, review_queue

pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.slow]
TOKEN = "a-token-of-the-tests"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = demo_home(tmp_path)
    add_preferences(home.lake)
    return home


@pytest.fixture
def address(home: Home) -> Iterator[str]:
    with served(home, TOKEN) as found:
        yield found


def begin(visited: Any) -> None:
    """The address of the terminal's line, a name, the experiment."""
    visited.go(f"/review#{TOKEN}")
    page = visited.page
    assert page.evaluate("document.activeElement.id") == "by", "the token is filled in, the name is asked"
    assert "#" not in page.url, "the token does not stay where others can read it"
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="judged").click()
    page.get_by_role("heading", level=1).wait_for()


def test_a_person_judges_with_the_keyboard_and_the_labels_are_in_the_lake(
    chromium: Any, home: Home, address: str
) -> None:
    queue = review_queue(home.lake, "judged", 0).rows(named=True)
    with visit(chromium, address) as visited:
        page = visited.page
        begin(visited)
        for place, key in enumerate(("b", "s", "n", "o")):
            assert f"Item {place + 1} of 4" in page.get_by_role("heading", level=1).inner_text()
            with page.expect_navigation():
                page.keyboard.press(key)
        assert "Item 2 of 4" in page.get_by_role("heading", level=1).inner_text(), "the skipped one is left"
        page.get_by_label("Note (optional)").focus()
        page.keyboard.type("a bonny note")
        with page.expect_navigation():
            page.get_by_role("button", name="A is better").click()
        assert page.get_by_role("heading", level=1).inner_text() == "All 4 items are reviewed"
        assert page.evaluate("window.hacked") is None
    said = {row["item_id"]: row for row in labels(home.lake, "judged").iter_rows(named=True)}
    first, second = said[queue[0]["item_id"]], said[queue[1]["item_id"]]
    assert first[first["label"]] == queue[0]["option_b"]
    assert second[second["label"]] == queue[1]["option_a"] and second["note"] == "a bonny note"
    assert [said[queue[n]["item_id"]]["label"] for n in (2, 3)] == ["neither", "both"]
    assert {row["by"] for row in said.values()} == {"Ada"}


def test_keys_can_be_switched_off_and_modified_keys_are_the_browsers(
    chromium: Any, home: Home, address: str
) -> None:
    with visit(chromium, address) as visited:
        page = visited.page
        begin(visited)
        page.keyboard.press("Control+a")
        page.get_by_label("Answer with the keys").uncheck()
        page.keyboard.press("a")
        page.reload()
        assert not page.get_by_label("Answer with the keys").is_checked(), "as it was left"
        page.keyboard.press("n")
        page.wait_for_timeout(200)
    assert labels(home.lake, "judged").is_empty()


def test_a_name_that_is_known_is_not_asked_again(chromium: Any, address: str) -> None:
    with visit(chromium, address) as visited:
        begin(visited)
        visited.page.context.clear_cookies(name="review_token")
        visited.go(f"/review#{TOKEN}")
        visited.page.get_by_role("link", name="judged").wait_for()
        assert "You are Ada" in visited.page.inner_text("main") and "#" not in visited.page.url


def test_without_javascript_the_buttons_do_the_same(chromium: Any, home: Home, address: str) -> None:
    with visit(chromium, address, java_script_enabled=False) as visited:
        visited.go("/review/judged")
        visited.page.get_by_label("Token").fill(TOKEN)
        visited.page.get_by_label("Your name").fill("Ada")
        visited.page.get_by_role("button", name="Start").click()
        visited.page.get_by_role("button", name="Neither is good").click()
        assert "Item 2 of 4" in visited.page.get_by_role("heading", level=1).inner_text()
    assert labels(home.lake, "judged")["label"].to_list() == ["neither"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(chromium: Any, address: str, scheme: str) -> None:
    with visit(chromium, address, viewport=PHONE, color_scheme=scheme) as visited:
        begin(visited)
        for place in range(4):
            visited.go(f"/review/judged?at={place}")
            assert visited.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            for button in visited.page.locator(".choices > *").all():
                assert button.bounding_box()["height"] >= 44, "as large as a thumb"
