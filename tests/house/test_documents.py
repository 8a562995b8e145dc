"""The documents quote code that exists, describe every method alike, and link to files that exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.echo import PACKAGE, ROOT

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.method import Method

pytestmark = pytest.mark.docs

GUIDE = ROOT / "docs/your-own-method.md"
METHODS = ROOT / "selfimprove_dagster/methods"
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(METHODS.glob("*/README.md"))]
SHIPPED = sorted(path.parent.name for path in METHODS.glob("*/__init__.py"))
HEADINGS = [
    "What it does",
    "Paper",
    "Stages",
    "Settings that matter",
    "Deviations from the paper",
    "What was measured",
]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SPACES = re.compile(r"\s+")


def quotations(language: str) -> Iterator[tuple[str, str]]:
    """The blocks of the guide in a language: the file that each one's first line names, and the lines after it."""
    for written_in, block in FENCED.findall(GUIDE.read_text("utf-8")):
        if written_in == language:
            first, _, rest = block.partition("\n")
            assert first.startswith("# "), f"no file is named above {first}"
            yield first.removeprefix("# "), rest


def read_method(name: str) -> str:
    return (METHODS / name / "README.md").read_text("utf-8")


def section(text: str, heading: str) -> str:
    """The text from a heading to the next one of its level."""
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Method[Any]]:
    """The method that the guide explains, found as the guide says."""
    monkeypatch.setenv(registry.FOLDERS, str(PACKAGE))
    registry.forget()
    yield registry.method("echo")
    monkeypatch.undo()
    registry.forget()


@pytest.mark.parametrize("language", ["python", "toml"])
def test_the_guide_quotes_the_toy(language: str) -> None:
    quoted = [*quotations(language)]
    assert quoted
    for file, lines in quoted:
        assert f"\n{lines}" in (PACKAGE / file).read_text("utf-8"), f"{file} has no such lines:\n{lines}"


def test_the_entry_point_of_the_guide_is_the_method(echo: Method[Any]) -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, attribute = project["entry-points"][registry.GROUP][echo.name].partition(":")
    assert (module, attribute) == ("echo_method", "METHOD")
    assert echo.distribution.startswith(module)


def test_the_experiment_of_the_guide_is_read(echo: Method[Any], tmp_path: Path) -> None:
    ((file, text),) = quotations("yaml")
    experiment = parse_experiment(yaml.safe_load(text), folder=tmp_path)
    assert isinstance(experiment, echo.experiment)
    assert Path(file).stem == experiment.name


def test_the_guide_names_every_hook() -> None:
    listed = re.findall(r"^- ((?:`\w+`(?:, )?)+): ", GUIDE.read_text("utf-8"), re.MULTILINE)
    named = {name for names in listed for name in re.findall(r"\w+", names)}
    assert named == {field.name for field in fields(Method)} - {"name", "experiment", "presets", "stages"}


@pytest.mark.parametrize("name", SHIPPED)
def test_methods_are_described_under_the_same_headings(name: str) -> None:
    assert re.findall(r"^## (.+)$", read_method(name), re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("name", SHIPPED)
def test_a_method_describes_its_stages_and_tables_in_order(name: str) -> None:
    rows = [row.split("|")[1:4] for row in section(read_method(name), "Stages").splitlines() if "`" in row]
    method = registry.method(name)
    assert [stage.strip(" `") for stage, _, _ in rows if stage.strip()] == [one.name for one in method.stages]
    assert [table.strip(" `") for _, table, _ in rows] == [*method.tables]
    assert all(meaning.strip() for _, _, meaning in rows)


@pytest.mark.parametrize("preset", ["paper", "practical"])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_method_lists_the_deviations_of_its_presets(name: str, preset: str) -> None:
    text = section(read_method(name), "Deviations from the paper").split(f"The preset `{preset}`:\n\n")[1]
    listed = [SPACES.sub(" ", item).strip() for item in re.split(r"^- ", text.split("\n\n")[0], flags=re.M)]
    declared: Preset = registry.method(name).presets[preset]
    assert listed[1:] == [*declared.all_deviations]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    targets = [target.partition("#")[0] for target in LINK.findall(document.read_text("utf-8"))]
    files = [target for target in targets if target and not re.match(r"https?:|mailto:", target)]
    assert not [file for file in files if not (document.parent / file).exists()]
