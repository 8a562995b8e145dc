"""A user's own tools: from a file, from an installed package, and when they misbehave."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.tools.base import Context, Tool, ToolError
from selfimprove_dagster.tools.registry import open_tools
from selfimprove_dagster.tools.toolbox import Toolbox

WEATHER = """
import os, time
from selfimprove_dagster.tools import ToolError

print("tools may print")

class Weather:
    name = "Weather"
    version = "3"

    introduction = "Ask for the weather."
    shots = (("It rains in Lodz.", "It [Weather(Lodz)] rains in Lodz."),)

    def parse(self, arguments):
        return arguments.strip('"') or ToolError("name a place")

    def run(self, input, context):
        print("so may calls")
        if input == "hang":
            while True:
                pass
        if input == "crash":
            os._exit(7)
        if input == "raise":
            raise RuntimeError("no such place")
        if input == "exit":
            raise SystemExit
        if input == "number":
            return 3
        if input == "flood":
            return "x" * (1 << 21)
        return f"{input}: sun on {context.date:%d.%m.}, process {os.getpid()}"
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toolbox]:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "my_tools.py").write_text(WEATHER)
    opened = open_tools(["my_tools.py:Weather"], folder=folder, time_limit=2)
    yield opened
    opened.close()


TODAY = Context(datetime.date(2024, 5, 1))


def test_a_tool_of_a_file_is_one_like_any_other(box: Toolbox) -> None:
    weather = box["Weather"]
    assert isinstance(weather, Tool)
    assert weather.version.startswith("3 b2:")
    assert weather.introduction == "Ask for the weather."
    assert weather.shots == [("It rains in Lodz.", "It [Weather(Lodz)] rains in Lodz.")]
    said = box.call("Weather", '"Łódź"', TODAY)
    assert isinstance(said, str) and said.startswith("Łódź: sun on 01.05.")
    assert box.call("Weather", '""', TODAY) == ToolError("name a place")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("hang", "took longer than 2 s and was stopped"),
        ("crash", "the tool's process has ended with code 7"),
        ("raise", "RuntimeError: no such place"),
        ("exit", "it asks Python to exit"),
        ("number", "run returned int, not text"),
        ("flood", "the answer is longer than 1,048,576 bytes"),
        ("x" * 20_000, "20,000 characters: at most 10,000"),
    ],
)
def test_one_that_misbehaves_gives_a_reason_and_goes_on(box: Toolbox, place: str, reason: str) -> None:
    start = time.perf_counter()
    said = box.call("Weather", place, TODAY)
    assert isinstance(said, ToolError) and reason in said.reason
    assert time.perf_counter() - start < 30
    assert isinstance(box.call("Weather", f"after {place[:9]}", TODAY), str)


def test_a_changed_file_is_another_version(box: Toolbox, tmp_path: Path) -> None:
    (tmp_path / "my_tools.py").write_text(WEATHER.replace("sun", "rain"))
    other = open_tools([f"{tmp_path}/my_tools.py:Weather"])
    assert other["Weather"].version != box["Weather"].version
    other.close()


def test_an_installed_package_offers_tools_as_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weather_tool.py").write_text(WEATHER)
    information = tmp_path / "weather_tool-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: weather-tool\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[selfimprove_dagster.tools]\nOutdoors = weather_tool:Weather\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    opened = open_tools(["Calculator", "Outdoors"])
    said = opened.call("Weather", "Oldgate", TODAY)
    assert isinstance(said, str) and said.startswith("Oldgate")
    opened.close()
    with pytest.raises(
        ExperimentError, match=r"'Indoors' is none of Calculator, .*, Outdoors; for your own tool"
    ):
        open_tools(["Indoors"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit", "it asks Python to exit"),
        ("", "it has no class 'Weather'"),
        ("class Weather: name = 'W'", "it is no tool: it lacks version, introduction, shots, parse, run"),
        (WEATHER.replace('"Weather"', '"The weather"'), "its name is 'The weather': use letters"),
        (WEATHER.replace("shots = (", 'shots = ("Rain.", '), "its shots must be pairs"),
    ],
)
def test_what_is_no_tool_is_refused(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "my_tools.py").write_text(code)
    with pytest.raises(ExperimentError, match=message):
        open_tools(["my_tools.py:Weather"], folder=tmp_path)
    with pytest.raises(ExperimentError, match="there is no file"):
        open_tools(["none.py:Weather"], folder=tmp_path)
