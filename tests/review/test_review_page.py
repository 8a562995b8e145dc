"""The page on which a person judges: who may write, what is written, and that hostile text stays text."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from kit.pages import inert
from kit.review_lake import HOSTILE, add_preferences, add_votes
from kit.small_lake import demo_home
from starlette.testclient import TestClient

from selfimprove_dagster.explorer.pages import create_app
from selfimprove_dagster.explorer.server import review_address
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.review.queue import labels, review_queue
from selfimprove_dagster.shared_tables import REVIEW_LABELS

TOKEN = "a-token-of-the-tests"
ORIGIN = "http://127.0.0.1:3001"
PAGE = "/review/judged"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = demo_home(tmp_path)
    add_preferences(home.lake)
    return home


def visitor(home: Home) -> TestClient:
    app = create_app(home, "http://127.0.0.1:3000", TOKEN)
    return TestClient(app, base_url=ORIGIN, follow_redirects=False)


def admitted(home: Home, name: str = "Ada Lovelace") -> TestClient:
    pages = visitor(home)
    form = {"token": TOKEN, "by": name, "experiment": "judged"}
    answer = pages.post("/review", data=form, headers={"Origin": ORIGIN})
    assert answer.status_code == 303 and answer.headers["location"] == PAGE
    return pages


def form_on(page: str) -> dict[str, str]:
    """The hidden fields of a page's form."""
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))


def stored(home: Home) -> int:
    return len(home.lake.manifests(REVIEW_LABELS.name))


def test_a_person_answers_one_item_after_another_and_each_answer_is_in_the_lake_at_once(home: Home) -> None:
    pages = admitted(home)
    queue = review_queue(home.lake, "judged", 0).rows(named=True)
    address = PAGE
    for place, label in enumerate(("a", "b", "both", "neither")):
        page = pages.get(address)
        assert f"Item {place + 1} of 4" in page.text and f'value="{place}" aria-label' in page.text
        form = form_on(page.text)
        assert form["item"] == queue[place]["item_id"]
        answer = pages.post(
            PAGE, data={**form, "label": label, "note": "a\r\nnote"}, headers={"Origin": ORIGIN}
        )
        assert answer.status_code == 303 and stored(home) == place + 1
        address = answer.headers["location"]
    said = labels(home.lake, "judged").rows(named=True)
    assert [row["item_id"] for row in said] == [row["item_id"] for row in queue]
    assert [said[n][said[n]["label"]] for n in (0, 1)] == [queue[0]["option_a"], queue[1]["option_b"]]
    assert [row["label"] for row in said[2:]] == ["both", "neither"]
    assert {(row["by"], row["note"]) for row in said} == {("Ada Lovelace", "a\nnote")}
    assert "All 4 items are reviewed" in pages.get(address).text


def test_what_is_skipped_comes_back_and_an_answer_can_be_changed(home: Home) -> None:
    pages = admitted(home)
    queue = review_queue(home.lake, "judged", 0)["item_id"].to_list()
    skip = re.search(r'href="([^"]*)" data-key="s"', pages.get(PAGE).text)
    assert skip is not None
    second = pages.get(unescape(skip[1])).text
    assert form_on(second)["item"] == queue[1]
    pages.post(PAGE, data={**form_on(second), "label": "a"}, headers={"Origin": ORIGIN})
    assert form_on(pages.get(PAGE).text)["item"] == queue[0], "the first is still open"
    again = pages.get(f"{PAGE}?at=1").text
    assert "Your answer: A." in again and form_on(again)["item"] == queue[1]
    pages.post(PAGE, data={**form_on(again), "label": "neither"}, headers={"Origin": ORIGIN})
    assert labels(home.lake, "judged")["label"].to_list() == ["neither"] and stored(home) == 2
    assert form_on(pages.get(f"{PAGE}?from=3").text)["item"] == queue[3]


def test_each_reviewer_has_a_queue_of_their_own(home: Home) -> None:
    ada, bo = admitted(home), admitted(home, "Ботильда Ö.")
    first = form_on(ada.get(PAGE).text)
    ada.post(PAGE, data={**first, "label": "a"}, headers={"Origin": ORIGIN})
    assert form_on(bo.get(PAGE).text)["item"] == first["item"]
    assert "4 of 4 waiting for you" in bo.get("/review").text
    assert "3 of 4 waiting for you" in ada.get("/review").text
    bo.post(
        PAGE,
        data={**first, "word": form_on(bo.get(PAGE).text)["word"], "label": "a"},
        headers={"Origin": ORIGIN},
    )
    assert set(labels(home.lake, "judged")["by"]) == {"Ada Lovelace", "Ботильда Ö."}


# ---- who may write -----------------------------------------------------------------------------------


def test_without_the_token_nothing_is_shown_and_nothing_is_stored(home: Home) -> None:
    form = {**form_on(admitted(home).get(PAGE).text), "label": "a"}
    stranger = visitor(home)
    page = stranger.get(PAGE).text
    assert "goats" not in page and 'name="token"' in page and TOKEN not in page
    for cookie in ("", "wrong", TOKEN[:-1], "é"):
        headers = {"Origin": ORIGIN, "Cookie": f"review_token={cookie}; reviewer=Ada".encode("latin-1")}
        assert stranger.post(PAGE, data=form, headers=headers).status_code == 403
    assert stored(home) == 0


def test_a_wrong_token_admits_nobody(home: Home) -> None:
    pages = visitor(home)
    for token in ("", "wrong", "é", TOKEN + "x"):
        refused = pages.post("/review", data={"token": token, "by": "Ada"}, headers={"Origin": ORIGIN})
        assert refused.status_code == 403 and "set-cookie" not in refused.headers
    nameless = pages.post("/review", data={"token": TOKEN, "by": " "}, headers={"Origin": ORIGIN})
    assert nameless.status_code == 403 and "give the name of the reviewer" in unescape(nameless.text)


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "http://evil.example",
        "http://127.0.0.1:3000",
        "http://localhost:3001",
        "http://127.0.0.1:3001.evil.example",
        "file://127.0.0.1:3001",
        "127.0.0.1:3001",
    ],
)
def test_a_form_of_another_page_is_refused_whatever_it_holds(home: Home, origin: str | None) -> None:
    pages = admitted(home)
    form = {**form_on(pages.get(PAGE).text), "label": "a"}
    headers = {} if origin is None else {"Origin": origin}
    assert pages.post(PAGE, data=form, headers=headers).status_code == 403
    entering = pages.post("/review", data={"token": TOKEN, "by": "Ada"}, headers=headers)
    assert entering.status_code == 403
    assert stored(home) == 0


def test_a_form_without_the_word_of_the_page_is_refused(home: Home) -> None:
    pages = admitted(home)
    form = {**form_on(pages.get(PAGE).text), "label": "a"}
    for word in ("", "0" * 32, TOKEN):
        answer = pages.post(PAGE, data={**form, "word": word}, headers={"Origin": ORIGIN})
        assert answer.status_code == 403
    assert stored(home) == 0


def test_the_cookie_is_kept_from_scripts_other_sites_and_other_pages(home: Home) -> None:
    answer = visitor(home).post("/review", data={"token": TOKEN, "by": "Ada"}, headers={"Origin": ORIGIN})
    for cookie in answer.headers.get_list("set-cookie"):
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and "Path=/review" in cookie


def test_a_server_that_was_started_again_asks_for_its_new_token(home: Home) -> None:
    cookies = admitted(home).cookies
    app = create_app(home, "http://127.0.0.1:3000", "another")
    later = TestClient(app, base_url=ORIGIN, cookies=cookies)
    page = later.get(PAGE).text
    assert 'name="token"' in page and 'value="Ada Lovelace"' in page, "the name is kept"
    unknown = TestClient(create_app(home, "http://127.0.0.1:3000"), base_url=ORIGIN, cookies=cookies)
    assert 'name="token"' in unknown.get(PAGE).text, "without a token of its own, nobody is admitted"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_no_other_page_can_be_written(home: Home, method: str) -> None:
    pages = admitted(home)
    for address in ("/", "/experiments/judged", "/records/ex:0", "/search", "/static/review.js"):
        assert pages.request(method, address, headers={"Origin": ORIGIN}).status_code == 405, address


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_review_is_written_by_post_alone(home: Home, method: str) -> None:
    assert admitted(home).request(method, PAGE, headers={"Origin": ORIGIN}).status_code == 405


def test_another_host_name_is_refused(home: Home) -> None:
    pages = admitted(home)
    form = {**form_on(pages.get(PAGE).text), "label": "a"}
    headers = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert pages.post(PAGE, data=form, headers=headers).status_code == 400 and stored(home) == 0


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"label": "c"}, 400),
        ({"label": ""}, 400),
        ({"item": "pref:0"}, 409),
        ({"place": "-1"}, 400),
        ({"place": "1" * 5_000}, 400),
        ({"note": "x" * 5_000}, 409),
        ({"note": "x" * 100_000}, 413),
    ],
)
def test_a_form_that_says_something_else_is_refused_with_a_reason(
    home: Home, change: dict[str, str], status: int
) -> None:
    pages = admitted(home)
    form = {**form_on(pages.get(PAGE).text), "label": "a", **change}
    assert pages.post(PAGE, data=form, headers={"Origin": ORIGIN}).status_code == status
    assert stored(home) == 0


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"%ff=%fe", b"no form", b"&" * 100, b"a=1&" * 40])
def test_what_is_no_form_is_refused(home: Home, body: bytes) -> None:
    answer = admitted(home).post(PAGE, content=body, headers={"Origin": ORIGIN})
    assert answer.status_code in (400, 403) and stored(home) == 0


@pytest.mark.parametrize("name", ["*", "..%2f..%2fetc", "[j]udged", "nobody"])
def test_a_name_is_no_pattern_and_no_way_out(home: Home, name: str) -> None:
    pages = admitted(home)
    form = {**form_on(pages.get(PAGE).text), "label": "a"}
    assert pages.get(f"/review/{name}").status_code == 404
    assert pages.post(f"/review/{name}", data=form, headers={"Origin": ORIGIN}).status_code == 404
    entering = {"token": TOKEN, "by": "Ada", "experiment": name}
    assert pages.post("/review", data=entering, headers={"Origin": ORIGIN}).status_code == 404


# ---- what is shown -----------------------------------------------------------------------------------


def test_every_page_forbids_scripts_of_others_and_tells_no_other_site_where_it_was(home: Home) -> None:
    pages = admitted(home)
    for address in ("/review", PAGE, f"{PAGE}?at=2", f"{PAGE}?at=99", "/review/nope"):
        headers = pages.get(address).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert headers["referrer-policy"] == "same-origin" and headers["cache-control"] == "no-store"


def test_hostile_text_is_inert(home: Home) -> None:
    pages = admitted(home)
    shown = [pages.get(f"{PAGE}?at={place}").text for place in range(4)]
    assert any("&lt;script&gt;window.hacked = 1" in page for page in shown)
    for page in [*shown, pages.get("/review").text, visitor(home).get(PAGE).text]:
        inert(page)
    hostile = visitor(home)
    hostile.cookies.set("reviewer", "%3Cscript%3E%22%E2%80%AE")
    inert(hostile.get(PAGE).text)
    refused = hostile.post("/review", data={"token": HOSTILE, "by": HOSTILE}, headers={"Origin": ORIGIN})
    inert(refused.text)


def test_what_the_page_shows_does_not_tell_which_response_the_judge_prefers(home: Home) -> None:
    queue = review_queue(home.lake, "judged", 0).rows(named=True)
    page = admitted(home).get(f"{PAGE}?at=3").text
    assert "gives one response 0.90" in page and queue[3]["probability"] == 0.9
    assert "probability" not in page and "swapped" not in page


def test_votes_are_reviewed_on_the_same_page(home: Home) -> None:
    (vote,) = add_votes(home.lake, ["7", "7", "8"])
    pages = admitted(home)
    page = pages.get("/review/demo").text
    assert "What is question 0?" in page and "The answer is 8." in page
    pages.post("/review/demo", data={**form_on(page), "label": "b"}, headers={"Origin": ORIGIN})
    label = labels(home.lake, "demo").row(0, named=True)
    assert label["item_id"] == vote and label["table"] == "lmsi/voted_answers"
    manifest = home.lake.manifests(REVIEW_LABELS.name)[0]
    record = pages.get(f"/records/{home.lake.read_ungated(manifest)['id'][0]}").text
    assert "B is better" in record and "Ada Lovelace" in record


def test_where_nothing_is_to_be_reviewed_it_says_so(tmp_path: Path) -> None:
    empty = demo_home(tmp_path)
    pages = visitor(empty)
    pages.post("/review", data={"token": TOKEN, "by": "Ada"}, headers={"Origin": ORIGIN})
    assert "No experiment has items to review yet" in pages.get("/review").text
    assert "has nothing to review" in pages.get("/review/demo").text


def test_the_address_that_admits_holds_a_new_token_where_no_server_is_sent_it() -> None:
    (token, address), (other, _) = review_address(3001), review_address(3001)
    assert address == f"http://127.0.0.1:3001/review#{token}" and token != other and len(token) >= 32
