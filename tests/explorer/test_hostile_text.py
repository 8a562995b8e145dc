"""Text of models, files and licences that was written to do harm: wherever it is shown, it does nothing."""

from __future__ import annotations

import json
import os
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from kit.small_lake import KnownAncestry, known_ancestry, make_experiment, write_lines
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from selfimprove_dagster.assets.factory import preview_table
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.export import export_dataset
from selfimprove_dagster.home.imports import import_seeds
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.prov import prov_json, trace_document
from selfimprove_dagster.methods.lmsi.tables import (
    FILTERED_DATASET,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.stage import preview_records
from selfimprove_dagster.text import code_span, markdown_table, plain

HOSTILE = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)><svg/onload=alert(1)>",
    "comment": "<!-- --><style>*{display:none}</style>--><iframe src=//e.vil>",
    "markdown": "[click](javascript:alert(1)) ![i](http://e.vil/x.png) <http://e.vil> e.vil\n# forged\n---",
    "reference": "[a]: http://e.vil\n\n[a] ![a] [^1] *b* ~~c~~ &lt;b&gt; &#60;b&#62;",
    "fence": "```\n`` ` `````\n</code><b>b</b>`",
    "table": "a | b |\n| --- | --- |\n| <b> | \\| c \\",
    "ansi": "\x1b[31mred\x1b[0m\x1b]8;;http://e.vil\x07link\x1b]8;;\x07\x1b[2J\x1bPq\x1b\\\x9b2J\x90x\x9c\x07\x08\r",
    "rich": "[bold]b[/bold] [link=http://e.vil]x[/link] [/] :boom: [@click=app.quit]q[/]",
    "sql": "'; DROP TABLE records; -- \" $1 ? {start}",
    "bidi": "abc\u202egnp.exe\u2066\u2069\u200f\u061c",
    "right to left": "שלום עולם مرحبا",
    "zero width": "pass\u200bword\u200d\u2060\ufeff\u00ad\u034f\u3164\ufe0f\U000e0041",
    "combining": "Z" + "\u0301\u0489\u035c" * 5_000,
    "nul": "a\x00b\x01\x1f\x7f",
    "separators": "a\u2028b\u2029c\x85d\ve\ff\r\ng",
    "yaml": "mit\n---\ntags: [forged]\n# h",
    "long": "x<b>" * 250_000,
    "template": "{{ 7 * 7 }} ${7*7} {% raw %} %(a)s {0.__class__}",
}
OUR_TAGS = {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li", "hr", "a"}
FORBIDDEN = set(
    "\x1b\x9b\x90\x9c\x07\x08\r\x00\x7f\u202e\u2066\u200b\u200f\u2028\u2029\x85\ufeff\u3164\U000e0041"
)


class Tags(HTMLParser):
    """Tags and addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: set[str] = set()
        self.headings = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.headings += tag in ("h1", "h2")
        for name, value in attrs:
            assert name in ("href", "style"), f"<{tag} {name}={value}>"
            if name == "href":
                self.addresses.add(str(value))


def rendered(markdown: str) -> Tags:
    """The page as a renderer shows it that lets HTML through and makes links of addresses."""
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Tags(renderer.render(markdown))


def hostile_lake(root: Path, text: str) -> tuple[Lake, KnownAncestry]:
    lake = Lake(root / "lake")
    columns = dict.fromkeys(("question", "source_file", "licence", "voted_answer"), text)
    return lake, known_ancestry(lake, text, **columns)


@pytest.fixture(params=HOSTILE, ids=str)
def hostile(request: pytest.FixtureRequest) -> str:
    return HOSTILE[request.param]


def test_plain_text_is_one_line_of_visible_characters_soon(hostile: str) -> None:
    started = time.process_time()
    shown = plain(hostile)
    assert time.process_time() - started < 2
    assert not set(shown) & FORBIDDEN
    assert "\n" not in shown
    assert plain(shown) == shown
    assert "\u0301\u0489\u035c" * 2 not in shown


def test_previews_show_no_tag_link_or_image_that_is_not_ours(hostile: str, tmp_path: Path) -> None:
    lake, _ = hostile_lake(tmp_path, hostile)
    for table in (SEED_POOL, RAW_GENERATIONS, VOTED_ANSWERS, FILTERED_DATASET):
        manifest = lake.manifests(table.name)[0]
        page = rendered(preview_table(lake, manifest, list(table.content)))
        assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
        assert not page.addresses
    examples = rendered(preview_records(lake, manifest))
    assert {address.rsplit("/", 1)[0] for address in examples.addresses} == {"http://127.0.0.1:3001/records"}


def test_names_of_columns_are_as_inert_as_their_values(hostile: str) -> None:
    page = rendered(markdown_table([{hostile: hostile}, {"n": 1}]))
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert rendered(f"says {code_span(hostile)}.").tags == {"p", "code"}


def test_the_card_holds_no_tag_link_or_heading_that_is_not_ours(hostile: str, tmp_path: Path) -> None:
    lake, _ = hostile_lake(tmp_path, hostile)
    export_dataset(lake, make_experiment(tmp_path), tmp_path / "out", None, "huggingface")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header, body = card.split("---\n", 2)[1:]
    assert header.splitlines()[0] in ("license: other", "license: mit")
    assert len(header.splitlines()) == 7
    page = rendered(body)
    assert page.tags <= OUR_TAGS
    assert not page.addresses
    assert page.headings == 9
    assert len(card) < 20_000


@pytest.mark.parametrize(
    "command", ["trace", "trace --json", "trace --format prov-json", "explain", "explain --json"]
)
def test_the_terminal_gets_no_control_character(
    hostile: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path))
    _, known = hostile_lake(tmp_path, hostile)
    verb, *options = command.split()
    told = CliRunner().invoke(app, ["lineage", verb, known.example, *options])
    assert told.exit_code == 0, told.exception
    assert not set(told.output) & FORBIDDEN
    if options:
        json.loads(told.stdout)


def test_prov_json_says_it_letter_by_letter(hostile: str, tmp_path: Path) -> None:
    lake, known = hostile_lake(tmp_path, hostile)
    document = json.loads(prov_json(trace_document(lake, known.example)))
    assert document["entity"][known.question]["column:licence"] == hostile
    assert document["entity"][known.paths[0]]["column:text"] == hostile


def test_searching_for_it_finds_it_and_nothing_else_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path))
    lake, _ = hostile_lake(tmp_path, HOSTILE["sql"])
    told = CliRunner().invoke(app, ["lineage", "search", "DROP TABLE records"])
    assert told.exit_code == 0 and "DROP TABLE records" in told.stdout
    assert len(lake.manifests()) == 7


def test_files_with_names_that_are_no_text_can_be_imported_traced_and_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff\x1b[31m<b>\xe2\x80\xae.jsonl")
    path = write_lines(tmp_path / name, [{"question": "What is 1 + 1?"}, {"question": "\x1b[2J<b>?"}, "{"])
    experiment = make_experiment(tmp_path)
    lake = Lake(tmp_path / "lake")
    source = experiment.seeds.model_copy(update={"file": str(path)})
    manifest, accepted, rejected = import_seeds(lake, experiment, source)
    assert (accepted, rejected) == (2, 1)
    seed = lake.read_ungated(manifest)["id"][0]
    text = prov_json(trace_document(lake, seed))
    assert text.isascii()
    shown = plain(json.loads(text)["entity"][seed]["column:source_file"])
    assert shown == "a�<b>.jsonl"
    assert rendered(preview_table(lake, manifest, ["question", "source_file"])).tags <= OUR_TAGS
