"""The lineage pages: what they show, whom they answer, and that hostile text stays text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import polars as pl
import pytest
from kit.pages import DAGSTER, client, every_page, inert
from kit.small_lake import demo_home, known_ancestry
from kit.tables import filled, tables_of
from kit.text import HOSTILE
from starlette.testclient import TestClient

from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.explorer.pages import create_app
from selfimprove_dagster.explorer.server import dagster_command, listen, serve_pages
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.loop.status import results
from selfimprove_dagster.text import readable

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return demo_home(tmp_path)


# ---- what is shown -----------------------------------------------------------------------------------


def test_a_person_finds_an_example_by_a_word_reads_why_it_is_there_and_reaches_its_seed(
    finished_home: Home,
) -> None:
    pages, lake = client(finished_home), finished_home.lake
    example = lake.read("lmsi/filtered_dataset", partition_of("small", 1)).row(3, named=True)
    listed = pages.get(
        "/experiments/small/1/examples", params={"q": example["question"], "format": example["format"]}
    )
    assert f'href="/records/{example["id"]}"' in listed.text
    found = pages.get("/search", params={"q": example["question"]})
    assert f'href="/records/{example["id"]}"' in found.text

    shown = pages.get(f"/records/{example['id']}").text
    assert "Why it was kept" in shown and "in the dataset of small-001" in unescape(shown)
    graph = json.loads(re.search(r'id="graph-data">(.*?)</script>', shown, re.DOTALL)[1])  # type: ignore[index]
    kinds = {node["kind"] for node in graph["nodes"]}
    assert {"accepted", "seed_pool", "raw_generations", "voted_answers", "filtered_dataset"} <= kinds
    assert len({edge["source"] for edge in graph["edges"]} & {node["id"] for node in graph["nodes"]}) > 8
    (seed,) = [node for node in graph["nodes"] if node["kind"] == "accepted"]
    assert shown.count(seed["href"]) > 1, "the list for screen readers leads there, too"
    assert "Descendants of the same seed" in shown
    assert "lmsi/fine_tuned_checkpoint" in shown, "the checkpoint that learnt from it"

    of_seed = pages.get(seed["href"]).text
    assert example["id"] in of_seed and 'id="offspring"' in of_seed


def test_the_numbers_of_an_experiment_are_those_of_the_library(finished_home: Home) -> None:
    page = client(finished_home).get("/experiments/small").text
    rows = results(finished_home.lake, finished_home.experiment("small"))
    charts = [
        json.loads(text) for text in re.findall(r'"application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    ]
    by_title = {chart["title"]: chart["series"] for chart in charts}
    accuracy = [series["values"] for series in by_title["Held-out accuracy"]]
    assert accuracy == [[row.champion.value for row in rows], [row.challenger.value for row in rows]]  # type: ignore[union-attr]
    kept = by_title["Kept share"][0]["values"]
    assert kept == [row.counts["kept"] / row.counts["samples"] for row in rows]  # type: ignore[operator]
    assert len(charts) == 5 and page.count("<table>") == 6
    assert f"{rows[1].challenger.value:.1%}" in page  # type: ignore[union-attr]


def test_the_funnel_narrows_from_paths_to_examples_and_its_drops_are_the_lists_they_lead_to(
    finished_home: Home,
) -> None:
    pages = client(finished_home)
    page = pages.get("/experiments/small/0").text
    counts = [int(n.replace(",", "")) for n in re.findall(r"</span><strong>([\d,]+)</strong>", page)]
    assert counts[0] == 24 and counts[1] == 24 * 8
    assert counts[1:] == sorted(counts[1:], reverse=True)
    dataset = finished_home.lake.manifest("lmsi/filtered_dataset", partition_of("small", 0))
    assert counts[-1] == dataset.rows
    drops = re.findall(r'<a href="(/experiments/small/0/rejected[^"]*)">([\d,]+) dropped', page)
    assert drops
    for link, count in drops:
        assert f'role="status">{count} path' in pages.get(unescape(link)).text
    assert f"{DAGSTER}/runs/{dataset.activity.about['dagster_run_id']}" in page
    assert f"{DAGSTER}/assets/lmsi/filtered_dataset?view=partitions&amp;partition=small-000" in page


def test_a_table_is_filtered_sorted_and_paged_by_its_address(finished_home: Home) -> None:
    pages, lake = client(finished_home), finished_home.lake
    decisions = lake.read("lmsi/decisions", partition_of("small", 0)).filter(~pl.col("kept"))

    def listed(**query: str | int) -> list[str]:
        page = pages.get("/experiments/small/0/rejected", params=query).text
        return re.findall(r'<td class="main"><a href="/records/(gen:[0-9a-f]+)"', page)

    everything = [path for page in range(1, 9) for path in listed(page=page)]
    assert set(everything) == set(decisions["candidate_id"])
    first = listed(rule="agrees_with_vote", page=1)
    assert set(first) <= set(decisions.filter(rule="agrees_with_vote")["candidate_id"]) and len(first) > 1
    assert listed(rule="' OR 1=1 --") == listed(q="no such word") == listed(least="2") == []
    assert listed(least="nan", most="x", page="-1", sort="id; DROP TABLE records") == listed()
    shares = re.findall(
        r'data-label="vote share" class="number">([\d.]+)<',
        pages.get("/experiments/small/0/examples?sort=share&least=0.3&most=0.9").text,
    )
    assert shares == sorted(shares, key=float) and all(0.3 <= float(share) <= 0.9 for share in shares)


def test_every_kind_of_record_has_a_page(finished_home: Home) -> None:
    pages, lake = client(finished_home), finished_home.lake
    seen = set()
    for manifest in lake.manifests():
        rows = lake.read_ungated(manifest)
        if len(rows):
            answer = pages.get(f"/records/{rows['id'][0]}")
            assert answer.status_code == 200, manifest.table
            inert(answer.text)
            seen.add(manifest.table)
    shown = {one.name for one in filled(tables_of("lmsi"))}
    assert seen >= shown | {"seeds/accepted", "seeds/demonstrations"}


def test_a_dataset_and_a_model_lead_to_where_they_are_shown(finished_home: Home) -> None:
    pages, lake = client(finished_home), finished_home.lake
    trained = lake.read("lmsi/fine_tuned_checkpoint", partition_of("small", 0)).row(0, named=True)
    to_dataset = pages.get(f"/records/{trained['dataset_activity_id']}")
    assert (to_dataset.status_code, to_dataset.headers["location"]) == (302, "/experiments/small/0/examples")
    assert pages.get(f"/records/{trained['model_id']}").headers["location"] == f"/records/{trained['id']}"
    assert pages.get(f"/records/{trained['base_model_id']}").status_code == 404
    assert "None of its training data was revoked" in pages.get(f"/records/{trained['id']}").text


def test_the_beginning_of_an_id_is_enough_and_the_search_takes_ids(home: Home) -> None:
    known, pages = known_ancestry(home.lake), client(home)
    assert pages.get(f"/records/{known.vote[:12]}").headers["location"] == f"/records/{known.vote}"
    assert pages.get("/search", params={"q": known.vote[:12]}).headers["location"] == f"/records/{known.vote}"
    several = pages.get("/search", params={"q": "gen:"})
    assert several.status_code == 200 and "several record ids" in several.text


def test_a_revoked_record_says_so_and_shows_no_text(home: Home) -> None:
    known, pages = known_ancestry(home.lake, text="the secret is 2. The answer is 2."), client(home)
    assert "the secret" in pages.get(f"/records/{known.paths[0]}").text
    revoke(home.lake, "seed", known.seed, None, by="Ada", why="asked to <b>forget</b> it")
    for record in (known.seed, known.question, known.paths[0], known.vote, known.example):
        for address in (f"/records/{record}", f"/records/{record}/text"):
            page = pages.get(address)
            assert page.status_code == 200 and "evoked" in page.text
            assert "secret" not in page.text and "1 + 1" not in page.text
    shown = pages.get(f"/records/{known.example}").text
    assert "Ada" in shown and "asked to &lt;b&gt;forget&lt;/b&gt; it" in shown
    assert "0 examples" in pages.get("/experiments/demo/0/examples").text


# ---- hostile text ------------------------------------------------------------------------------------


def test_what_is_left_beside_a_revoked_path_does_not_give_its_answer_away(home: Home) -> None:
    known, pages = known_ancestry(home.lake, voted_answer="4711"), client(home)
    assert "4711" in pages.get(f"/records/{known.paths[1]}").text
    revoke(home.lake, "record", known.paths[0], None, by="Ada", why="a test")
    page = pages.get(f"/records/{known.paths[1]}")
    assert page.status_code == 200 and "4711" not in page.text and "✗ Revoked" not in page.text


def test_hostile_text_is_inert_and_readable_on_every_page(home: Home) -> None:
    known = known_ancestry(
        home.lake, text=HOSTILE, question=HOSTILE, source_file=HOSTILE, voted_answer=HOSTILE
    )
    pages = client(home)
    for address in every_page(known):
        answer = pages.get(address)
        assert answer.status_code == 200, address
        inert(answer.text)
    shown = pages.get(f"/records/{known.example}").text
    assert "&lt;script&gt;window.hacked = 1&lt;/script&gt;" in shown and "{{ 7 * 7 }}" in unescape(shown)
    assert re.search(r"onerror=alert\(1\)&gt;\nred", shown), "line breaks are kept"
    text = pages.get(f"/records/{known.example}/text")
    assert text.headers["content-type"] == "text/plain; charset=utf-8" and "\x1b" not in text.text


def test_a_line_of_a_megabyte_is_cut_and_can_be_had_whole(home: Home) -> None:
    known = known_ancestry(home.lake, text="x" * 1_000_000, question="y" * 1_000_000)
    pages = client(home)
    for address in every_page(known):
        assert len(pages.get(address).text) < 200_000, address
    assert f"/records/{known.example}/text" in pages.get(f"/records/{known.example}").text
    assert "x" * 1_000_000 in pages.get(f"/records/{known.example}/text").text


def test_text_keeps_its_lines_and_loses_what_is_invisible() -> None:
    assert readable("a\r\nb\x1b[2Jc​\n\n\td") == "a\nbc\n\n d"
    assert readable("abcdef", 3) == "abc…" and readable("") == ""


# ---- who is answered, and how ------------------------------------------------------------------------


def test_every_answer_forbids_what_the_pages_do_not_need(home: Home) -> None:
    known_ancestry(home.lake)
    pages = client(home)
    for address in ("/", "/nope", "/records/ex:0", "/static/pages.css", "/healthz", "/search?q=x"):
        headers = pages.get(address).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(home: Home, method: str) -> None:
    pages = client(home)
    for address in ("/", "/experiments/demo", "/records/ex:0", "/search", "/static/pages.css"):
        assert pages.request(method, address).status_code == 405, address


def test_head_is_answered_like_get(home: Home) -> None:
    assert client(home).head("/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:3001", ""]
)
def test_another_host_name_is_refused(home: Home, host: str) -> None:
    known_ancestry(home.lake)
    answer = client(home).get("/", headers={"Host": host})
    assert answer.status_code == 400 and "demo" not in answer.text
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:8080"])
def test_this_machine_is_answered(home: Home, host: str) -> None:
    assert client(home).get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "/experiments/..%2f..%2fetc",
        "/experiments/*",
        "/experiments/*/0",
        "/experiments/[d]emo/0/examples",
        "/experiments/../../../etc/passwd",
        "/static/../pages.py",
        "/static/%2e%2e/pages.py",
        "/static/vendor/..%2f..%2f..%2fpages.py",
        "/static//etc/passwd",
        "/records/..%2f..%2fhome",
        "/records/%00",
    ],
)
def test_no_address_leads_out_of_the_lake_or_the_static_files(home: Home, address: str) -> None:
    known_ancestry(home.lake)
    answer = client(home).get(address)
    assert answer.status_code == 404 and "root:" not in answer.text and "def " not in answer.text


# ---- nothing there, or not yet -----------------------------------------------------------------------


def test_an_empty_lake_is_a_friendly_page(home: Home) -> None:
    pages = client(home)
    assert "not started" in pages.get("/").text
    assert "No iteration has started" in pages.get("/experiments/demo").text
    for address in ("/experiments/demo/0", "/experiments/demo/0/examples", "/records/ex:0"):
        assert pages.get(address).status_code == 404, address
    assert pages.get("/search?q=word").status_code == 200
    assert pages.get("/healthz").text == "ok\n"


def test_no_experiment_at_all_says_how_to_begin(tmp_path: Path) -> None:
    page = client(Home(root=tmp_path / "home", experiments=tmp_path / "none")).get("/")
    assert page.status_code == 200 and "selfimprove run demo" in page.text


def test_an_iteration_of_which_only_the_first_stages_are_there_is_shown(
    finished_home: Home, tmp_path: Path
) -> None:
    home = Home(root=tmp_path / "home", experiments=finished_home.experiments)
    shutil.copytree(finished_home.root / "lake", home.root / "lake")
    for stage in (
        "promotion",
        "evaluation",
        "fine_tuned_checkpoint",
        "filtered_dataset",
        "decisions",
        "voted_answers",
    ):
        pages = client(home)
        assert pages.get("/").status_code == pages.get("/experiments/small").status_code == 200
        for address in ("", "/examples", "/rejected"):
            assert pages.get(f"/experiments/small/1{address}").status_code == 200, (stage, address)
        shutil.rmtree(home.root / "lake" / "lmsi" / stage)
    path = home.lake.read("lmsi/raw_generations", partition_of("small", 1))["id"][0]
    shown = pages.get(f"/records/{path}")
    assert shown.status_code == 200
    assert "not committed yet" in pages.get("/experiments/small/1/examples").text


def test_a_broken_experiment_file_does_not_take_the_others_along(home: Home) -> None:
    known_ancestry(home.lake)
    (home.experiments / "broken.yaml").write_text("name: broken\nmodel: 3\n")
    pages = client(home)
    page = pages.get("/")
    assert page.status_code == 200 and "cannot be read" in page.text and "/experiments/demo/0" in page.text
    assert pages.get("/experiments/broken").status_code == 409


def test_a_shipped_experiment_has_a_page_once_it_has_rows(home: Home) -> None:
    (home.experiments / "demo.yaml").unlink()
    assert client(home).get("/experiments/demo").status_code == 404
    assert "/experiments/demo" not in client(home).get("/").text
    known_ancestry(home.lake)
    assert "teaches itself arithmetic" in client(home).get("/experiments/demo").text
    assert "/experiments/demo" in client(home).get("/").text


def test_rows_without_an_experiment_file_can_still_be_read(home: Home) -> None:
    known = known_ancestry(home.lake)
    (home.experiments / "demo.yaml").unlink()
    pages = client(replace(home, shipped=home.experiments))
    assert pages.get("/").status_code == 200
    assert pages.get("/experiments/demo").status_code == 409
    assert pages.get("/experiments/demo/0").status_code == 200
    assert pages.get(f"/records/{known.example}").status_code == 200


def test_a_lake_that_changes_at_the_moment_is_read_again_and_then_said_to_be_busy(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfimprove_dagster.explorer import views

    tries: list[int] = []

    def vanishing(fails: int) -> Callable[[Home], dict[str, object]]:
        def view(_: Home) -> dict[str, object]:
            tries.append(1)
            if len(tries) <= fails:
                raise FileNotFoundError("part-0.parquet")
            return {"home": "", "experiments": []}

        return view

    pages = client(home)
    monkeypatch.setattr(views, "experiments", vanishing(1))
    assert pages.get("/").status_code == 200
    tries.clear()
    monkeypatch.setattr(views, "experiments", vanishing(9))
    assert pages.get("/").status_code == 503 and len(tries) == 2


def test_a_fault_of_the_pages_is_a_page_with_the_same_headers(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfimprove_dagster.explorer import views

    monkeypatch.setattr(views, "experiments", lambda home: 1 / 0)
    app = create_app(home, DAGSTER)
    answer = TestClient(app, base_url="http://localhost", raise_server_exceptions=False).get("/")
    assert answer.status_code == 500 and "ZeroDivisionError" not in answer.text
    assert "content-security-policy" in answer.headers


# ---- starting ----------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_said_before_anything_starts(home: Home) -> None:
    with listen(0) as taken:
        taken.listen()
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(SelfImproveError, match="choose another port"):
            serve_pages(home, taken.getsockname()[1], DAGSTER, beside=["false"])


def test_the_pages_end_with_what_runs_beside_them(home: Home) -> None:
    serve_pages(home, 0, DAGSTER, beside=[sys.executable, "-c", "import time; time.sleep(0.5)"])


def test_a_command_that_fails_beside_the_pages_is_said(home: Home) -> None:
    with pytest.raises(SelfImproveError, match="exited with code 3"):
        serve_pages(home, 0, DAGSTER, beside=[sys.executable, "-c", "raise SystemExit(3)"])


def test_dagster_is_started_for_this_machine_only() -> None:
    command = dagster_command(3000)
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_commands_and_code_location_start_without_the_web_server() -> None:
    for module in ("selfimprove_dagster.cli.main", "selfimprove_dagster.definitions"):
        code = f"import sys, {module}; print('starlette' in sys.modules, 'uvicorn' in sys.modules)"
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
        )
        assert said.stdout.split() == ["False", "False"]
