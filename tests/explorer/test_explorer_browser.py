"""The lineage pages in Chromium: a person's walk, by mouse and by keys, and hostile text that stays text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.browser import PHONE, served, visit
from kit.pages import every_page
from kit.small_lake import demo_home, known_ancestry
from kit.text import HOSTILE

from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.work.attempts import begin, save
from selfimprove_dagster.work.progress import Progress, ProgressReport, watched

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def finished(finished_home: Home) -> Iterator[str]:
    with served(finished_home) as address:
        yield address


def middle_example(home: Home) -> dict[str, Any]:
    rows = home.lake.read("lmsi/filtered_dataset", partition_of("small", 1)).sort("vote_share")
    return rows.row(len(rows) // 2, named=True)


def test_a_person_finds_an_example_reads_why_it_was_kept_and_walks_to_its_seed_and_what_came_of_it(
    chromium: Any, finished: str, finished_home: Home
) -> None:
    example = middle_example(finished_home)
    with visit(chromium, finished) as visited:
        page = visited.page
        visited.go("/")
        page.get_by_role("link", name="small", exact=True).click()
        page.get_by_role("link", name="1", exact=True).first.click()
        page.get_by_role("link", name="Browse examples").click()
        page.get_by_label("Words in prompt or completion").fill(example["question"])
        page.get_by_role("button", name="Apply").click()
        page.locator(f'a[href="/records/{example["id"]}"]').click()
        assert page.get_by_role("heading", name="Why it was kept").is_visible()
        assert "in the dataset of small-001" in page.locator(".why").inner_text()
        assert page.locator(".graph canvas").count() > 0, "the graph is drawn"
        page.get_by_text("As a list").click()
        page.locator(".tree a", has_text="seed ").first.click()
        assert page.get_by_role("heading", level=1).inner_text().startswith("Seed")
        came = page.get_by_role("table", name="Records by table and iteration")
        assert "lmsi/filtered_dataset" in came.inner_text()
        assert page.locator(f'a[href="/records/{example["id"]}"]').count() > 0


def test_the_graph_is_walked_by_keys_and_a_click_goes_to_the_record(
    chromium: Any, finished: str, finished_home: Home
) -> None:
    example = middle_example(finished_home)
    with visit(chromium, finished) as visited:
        page = visited.page
        visited.go(f"/records/{example['id']}")
        canvas = page.get_by_role("application", name="Ancestry of this record")
        canvas.focus()
        status = page.locator("#graph-status")
        assert "example" in status.inner_text()
        said = []
        for _ in range(8):
            canvas.press("ArrowLeft")
            said.append(status.inner_text())
        assert said[-1].startswith("seed"), said
        with page.expect_navigation():
            canvas.press("Enter")
        assert "/records/seed:" in page.url
        page.go_back()
        page.wait_for_load_state("networkidle")
        # The record itself is the rightmost node: found from the right end of the frame inwards.
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        urls = set()
        for x in range(int(box["width"]) - 10, 10, -12):
            page.mouse.move(box["x"] + x, box["y"] + box["height"] / 2)
            if canvas.evaluate("element => element.style.cursor") == "pointer":
                with page.expect_navigation():
                    page.mouse.click(box["x"] + x, box["y"] + box["height"] / 2)
                urls.add(page.url)
                break
        assert urls and all("/records/" in url for url in urls)


def test_the_keyboard_alone_is_enough(chromium: Any, finished: str, finished_home: Home) -> None:
    example = middle_example(finished_home)
    with visit(chromium, finished) as visited:
        page = visited.page
        visited.go("/")
        press = page.keyboard.press

        def tab_to(address: str) -> None:
            for _ in range(200):
                press("Tab")
                if page.evaluate("document.activeElement.getAttribute('href')") == address:
                    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                    assert outline == "solid", "the focus can be seen"
                    return
            raise AssertionError(f"{address} cannot be reached")

        press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        for _ in range(5):
            if page.evaluate("document.activeElement.id") == "q":
                break
            press("Tab")
        page.keyboard.type(example["question"])
        press("Enter")
        page.wait_for_url("**/search?q=*")
        tab_to(f"/records/{example['id']}")
        press("Enter")
        page.wait_for_url(f"**/records/{example['id']}")
        seed = page.locator("#of-seed ~ p a").get_attribute("href")
        tab_to(seed)
        press("Enter")
        page.wait_for_url(f"**{seed}")
        tab_to(f"/records/{example['id']}")


def test_charts_are_drawn_and_their_numbers_stand_beside_them(chromium: Any, finished: str) -> None:
    with visit(chromium, finished) as visited:
        visited.go("/experiments/small")
        assert visited.page.locator("figure canvas").count() == 5
        assert visited.page.get_by_role("table", name="Held-out accuracy by iteration").is_visible()


def test_without_javascript_the_ancestry_is_a_list(chromium: Any, finished: str, finished_home: Home) -> None:
    with visit(chromium, finished, java_script_enabled=False) as visited:
        visited.go(f"/records/{middle_example(finished_home)['id']}")
        assert not visited.page.locator(".graph").is_visible()
        visited.page.get_by_text("As a list").click()
        assert visited.page.locator(".tree a", has_text="seed ").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways_on_a_phone(
    chromium: Any, finished: str, finished_home: Home, scheme: str
) -> None:
    example = middle_example(finished_home)
    trained = finished_home.lake.read("lmsi/fine_tuned_checkpoint", partition_of("small", 1))["id"][0]
    addresses = ("/", "/experiments/small", "/experiments/small/1", "/experiments/small/1/examples")
    addresses += (
        "/experiments/small/1/rejected",
        f"/records/{example['id']}",
        f"/records/{trained}",
        "/search?q=how",
    )
    with visit(chromium, finished, viewport=PHONE, color_scheme=scheme) as visited:
        for address in addresses:
            visited.go(address)
            assert visited.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], address


def test_hostile_text_runs_nothing_asks_for_nothing_and_breaks_no_page(chromium: Any, tmp_path: Path) -> None:
    home = demo_home(tmp_path)
    text = HOSTILE + "\n" + "W" * 100_000
    known = known_ancestry(home.lake, text=text, question=text, source_file=HOSTILE, voted_answer=HOSTILE)
    with served(home) as address, visit(chromium, address, viewport=PHONE) as visited:
        for path in every_page(known):
            visited.go(path)
            assert visited.page.evaluate("window.hacked") is None
            assert visited.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        visited.go(f"/records/{known.example}")
        assert "<script>window.hacked = 1</script>" in visited.page.locator(".said").first.inner_text()
        assert visited.page.locator(".graph canvas").count() > 0


def test_a_training_at_work_is_drawn_as_it_goes_on_and_the_page_ends_with_it(
    chromium: Any, tmp_path: Path
) -> None:
    home = demo_home(tmp_path)
    known_ancestry(home.lake)
    experiment = home.experiment("demo")
    how: dict[str, Any] = {
        "run_id": "r",
        "number": 1,
        "inputs": "",
        "parent": os.getpid(),
        "by_person": False,
    }
    begun = replace(begin(home.lake, experiment, 0, **how), stage="fine_tuned_checkpoint")

    def trained(steps: int) -> None:
        """The training reports so many steps."""
        seen: list[Progress] = []
        with watched(seen.append), ProgressReport("lmsi/fine_tuned_checkpoint", 8, "steps", str) as report:
            for step in range(steps):
                report.figures = {"loss": 2.5 - step / 4}
                report.advance(1, 100)
        save(home.lake, replace(begun, progress=seen[-1]))

    trained(2)
    with served(home) as address, visit(chromium, address) as visited:
        visited.go("/experiments/demo")
        page, live = visited.page, visited.page.locator("#live")
        live.get_by_text("2 of 8 steps, loss 2.25").wait_for()
        assert live.locator("figure canvas").count() == 2
        loss = live.get_by_role("table", name="Loss by steps")
        assert [*loss.locator("tbody tr").all_inner_texts()] == ["1\t2.5", "2\t2.25"]
        assert live.get_by_role("table", name="Tokens per second by steps").is_visible()
        page.evaluate("window.stays = true")
        trained(3)
        live.get_by_text("3 of 8 steps, loss 2").wait_for()
        assert loss.locator("tbody tr").count() == 3
        assert live.locator("figure canvas").count() == 2
        assert page.evaluate("window.stays"), "the page was not loaded again"
        save(home.lake, replace(begun, status="failed", stage="", error="out of memory"))
        live.locator("figure").first.wait_for(state="detached")
        page.wait_for_load_state()
        assert page.evaluate("window.stays === undefined"), (
            "the page was loaded again, with what the training left"
        )
