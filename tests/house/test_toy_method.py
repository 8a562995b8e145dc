"""A stranger's method gets everything without a line of it in the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from kit.echo import EXPERIMENT, PACKAGE, Stranger

pytestmark = pytest.mark.slow

SEEN = """
import json, os, sys
import dagster as dg
from selfimprove_dagster.definitions import defs
from selfimprove_dagster.resources import HomeResource

graph = defs.resolve_asset_graph()
own = [key for key in graph.get_all_asset_keys() if key.path[0] == "echo"]
sensor = next(one for one in defs.sensors if one.name == "next_iteration")

def tick(place):
    os.environ["SELFIMPROVE_HOME"], os.environ["SELFIMPROVE_EXPERIMENTS"] = place.split(":")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"home": HomeResource()}, definitions=defs)
        return [[one.job_name, one.partition_key] for one in sensor(context).run_requests or []]

print(json.dumps({
    "assets": {key.to_user_string(): sorted(one.to_user_string() for one in graph.get(key).parent_keys) for key in own},
    "checks": sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys
                     if key.asset_key.path[0] == "echo"),
    "job": defs.resolve_job_def("echo_iteration").name,
    "version": sorted({graph.get(key).code_version for key in own}),
    "others": len([key for key in graph.get_all_asset_keys() if key.path[0] != "echo"]),
    "ticks": [tick(place) for place in sys.argv[1:]],
}))
"""

KILLED = """
import os, signal, sys
from selfimprove_dagster.cli.main import main
from selfimprove_dagster.work.progress import ProgressReport

advance = ProgressReport.advance

def advance_and_die(report, units, tokens=0):
    advance(report, units, tokens)
    if report.title == "echo/shouted" and report.done > 2:
        os.kill(os.getpid(), signal.SIGKILL)

ProgressReport.advance = advance_and_die
sys.argv = ["selfimprove", "run", "loud", "--iterations", "1"]
main()
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """The toy method, found by its entry point, after two iterations."""
    stranger = Stranger(tmp_path_factory.mktemp("stranger"), by="entry point")
    stranger.call("run", "loud")
    return stranger


def copy(ran: Stranger, folder: Path, by: str = "entry point") -> Stranger:
    """The same home for a test that writes, in a shell that finds the method `by` the entry point, or not."""
    stranger = Stranger(folder, by=by)
    shutil.rmtree(stranger.home)
    shutil.copytree(ran.home, stranger.home)
    return stranger


@pytest.fixture
def copied(ran: Stranger, tmp_path: Path) -> Stranger:
    return copy(ran, tmp_path)


def shout_of(stranger: Stranger, word: str) -> dict[str, Any]:
    """What was shouted after a word."""
    return next(row for row in stranger.rows("echo/shouted") if row["text"].startswith(f"{word}."))


def group_of(stranger: Stranger, letter: str) -> dict[str, Any]:
    return next(row for row in stranger.rows("echo/kept") if row["letter"] == letter)


# ---- Dagster -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(ran: Stranger, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Dagster sees of the method; a tick of the sensor where it has run, where not, and where it may not."""
    fresh, silent = (Stranger(tmp_path_factory.mktemp(name), by="entry point") for name in ("new", "silent"))
    silent.write("loud", {**EXPERIMENT, "loop": False})
    places = [f"{one.home}:{one.experiments}" for one in (ran, fresh, silent)]
    found: dict[str, Any] = json.loads(ran.python(SEEN, *places))
    return found


def test_it_gets_assets_with_dependencies_checks_and_a_job(seen: dict[str, Any]) -> None:
    assert seen["assets"] == {
        "echo/said": [],
        "echo/shouted": ["echo/said"],
        "echo/kept": ["echo/shouted"],
    }
    common = {f"echo/{stage}:parents_exist" for stage in ("said", "shouted", "kept")}
    assert {*common, "echo/shouted:loud", "echo/kept:decisions_schema"} <= {*seen["checks"]}
    assert seen["job"] == "echo_iteration"
    assert seen["others"] > 80


def test_the_code_version_of_its_rows_is_that_of_its_release(ran: Stranger, seen: dict[str, Any]) -> None:
    assert seen["version"] == ["1 of echo-method-1.0"]
    made = [ran.manifest(f"echo/{stage}")["activity"] for stage in ("said", "shouted", "decisions", "kept")]
    assert {one["code_version"] for one in made} == {"1 of echo-method-1.0"}


def test_the_sensor_starts_it_and_stops_with_its_reason(seen: dict[str, Any]) -> None:
    assert seen["ticks"] == [[], [["echo_iteration", "loud-000"]], []]


# ---- commands ----------------------------------------------------------------------------------------


def test_it_runs_and_is_many_to_one(ran: Stranger) -> None:
    shouts = [row["text"] for row in ran.rows("echo/shouted")]
    assert [one.partition(".")[0] for one in shouts] == ["CAT", "HORSE", "HARE", "MOUSE", "OX"]
    kept = [one for one in shouts if len(one) >= 14]
    assert 0 < len(kept) < len(shouts)
    group = group_of(ran, "H")
    assert group["completion"] == " ".join(one for one in kept if one[0] == "H")
    assert [edge["role"] for edge in group["parents"]] == ["kept_from", "kept_from"]
    assert [row["text"] for row in ran.rows("echo/said")] != [row["text"] for row in ran.rows("echo/said", 1)]


def test_commands_know_it(ran: Stranger, copied: Stranger) -> None:
    assert "least_length" in (fields := ran.ask("fields", "echo")) and "saying.max_tokens" in fields
    status = ran.ask("status", "loud")
    assert "sayings" in status and "iteration budget spent" in status
    assert "loud: echo dropped: length" in ran.ask("compare", "loud")
    copied.write("loud", {**EXPERIMENT, "budget": {"iterations": 5}})
    estimate = copied.ask("run", "loud", "--estimate")
    assert "forecast of iteration 2 of loud" in estimate and "budget.iterations allows 3 more" in estimate
    assert "every stage: as much as in iteration 1, which had the same settings" in estimate
    copied.write("loud", {**EXPERIMENT, "budget": {"iterations": 5}, "least_length": 3})
    assert "pilot: kept, 3 of 3" in copied.ask("run", "loud", "--estimate")


def test_lineage_answers_for_every_row(ran: Stranger) -> None:
    group, horse, ox = group_of(ran, "H"), shout_of(ran, "HORSE"), shout_of(ran, "OX")
    trace = ran.ask("lineage", "trace", group["id"])
    assert "shouted HORSE. " in trace and "shouted HARE. " in trace and trace.count("shouted from") == 2
    assert "in the dataset of loud-000" in ran.ask("lineage", "explain", horse["id"])
    assert "dropped by the rule length" in ran.ask("lineage", "explain", ox["id"])
    said = horse["parents"][0]["id"]
    assert group["id"][:12] in ran.ask("lineage", "descendants", said, "--all")
    assert "kept" in ran.ask("lineage", "search", "HORSE.")
    ran.ask("lineage", "verify")


def test_another_threshold_is_asked_about(ran: Stranger) -> None:
    ox, group = shout_of(ran, "OX"), group_of(ran, "H")
    gained = ran.ask("lineage", "explain", ox["id"], "--what-if", f"length={len(ox['text'])}")
    assert "length" in gained and "recorded scores" in gained
    answer = json.loads(ran.ask("lineage", "explain", group["id"], "--what-if", "length=99", "--json"))
    assert (answer["kept_then"], answer["kept_now"], answer["lost"]) == (4, 0, {"length": 4})
    assert [one["now"]["kept"] for one in answer["record"]] == [False, False]


def test_what_its_model_said_is_drawn_again(ran: Stranger) -> None:
    again = json.loads(ran.ask("lineage", "replay", group_of(ran, "H")["id"], "--json"))
    assert (again["agreement"]["equal"], again["agreement"]["of"]) == (2, 2)
    assert again["differences"] == []
    sample = ran.ask("lineage", "replay", "loud-001", "--sample", "5")
    assert "5 of 5 paths are identical, token by token" in sample


def test_column_lineage_reaches_dagster_and_openlineage(ran: Stranger, tmp_path: Path) -> None:
    with ran.entered(), dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["echo", "kept"]))
    assert event is not None and event.asset_materialization is not None
    lineage = event.asset_materialization.metadata["dagster/column_lineage"].value
    assert [*lineage.deps_by_column["completion"]] == [
        dg.TableColumnDep(dg.AssetKey(["echo", "shouted"]), "text")
    ]
    ran.ask("lineage", "openlineage", "loud", str(tmp_path / "events.jsonl"))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    outputs = {output["name"]: output["facets"] for event in events for output in event["outputs"]}
    shouted = outputs["echo/shouted"]["columnLineage"]["fields"]["text"]["inputFields"]
    assert [(one["name"], one["field"]) for one in shouted] == [("echo/said", "word"), ("echo/said", "text")]


def test_pages_show_its_nouns(ran: Stranger) -> None:
    group, shout, said = group_of(ran, "H")["id"], shout_of(ran, "OX")["id"], ran.rows("echo/said")[0]["id"]
    names = {group: "Group of shouts", shout: "Shout", said: "Saying"}
    records = ran.pages(*(f"/records/{one}" for one in names))
    assert all(f"<h1>{name} <small" in records[f"/records/{one}"] for one, name in names.items())
    pages = ran.pages("/", "/experiments/loud", "/experiments/loud/0", "/experiments/loud/0/examples")
    assert "groups of shouts" in pages["/experiments/loud/0"]
    assert "HORSE" in pages["/experiments/loud/0/examples"]


def test_its_dataset_is_exported_with_a_card(ran: Stranger, tmp_path: Path) -> None:
    said = ran.ask("export", "loud", str(tmp_path / "out"), "--iteration", "0")
    assert said.startswith("3 examples written")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "by the method `echo`\n(Shouts that are long enough are kept)" in card
    assert "`the base model`" in card and "5 sayings in total" in card
    assert "| `length` | 14 | 5 | 4 | 1 |" in card and "| `unique_ids` | `passed` | `yes` |" in card
    assert "| `echo/said` | `1 of echo-method-1.0` |" in card
    ran.ask("export", "loud", str(tmp_path / "prov"), "--format", "prov-json")
    assert "shouted_from" in (tmp_path / "prov" / "dataset.prov.json").read_text(encoding="utf-8")


def test_a_row_can_be_revoked_and_its_descendants_fall(copied: Stranger) -> None:
    horse = shout_of(copied, "HORSE")["id"]
    copied.ask("lineage", "revoke", "--record", horse, "--why", "a test", "--yes")
    assert "a test" in copied.ask("lineage", "revocations")
    assert "revoked" in copied.ask("lineage", "explain", group_of(copied, "H")["id"])
    assert "revoked" not in copied.ask("lineage", "explain", group_of(copied, "M")["id"])
    assert copied.ask("export", "loud", str(copied.home / "out"), "--iteration", "0").startswith("2 examples")


def test_a_lake_stays_readable_after_its_method_is_gone(ran: Stranger, tmp_path: Path) -> None:
    without = copy(ran, tmp_path, by="nothing")
    kept, dropped = group_of(ran, "H")["id"], shout_of(ran, "OX")["id"]
    assert "HORSE" in without.ask("lineage", "trace", kept)
    assert "length" in without.ask("lineage", "explain", dropped)
    assert kept[:12] in without.ask("lineage", "descendants", shout_of(ran, "HARE")["id"], "--all")
    assert "kept_now" in without.ask("lineage", "explain", dropped, "--what-if", "length=3", "--json")
    without.ask("lineage", "verify")
    pages = without.pages("/", f"/records/{kept}", "/experiments/loud/0", "/experiments/loud/0/examples")
    assert "HORSE" in pages["/experiments/loud/0/examples"]


# ---- faults ------------------------------------------------------------------------------------------


def test_a_blocking_check_stops_what_follows_and_a_mended_method_goes_on(
    ran: Stranger, tmp_path: Path
) -> None:
    """In a folder of one's own, which gives the same rows as an installed package."""
    source = tmp_path / "methods"
    shutil.copytree(PACKAGE, source)
    stages = source / "echo_method" / "stages.py"
    sound = stages.read_text()
    broken = sound.replace(".strip().upper()", ".strip()").replace(
        'Parent(row["id"], "shouted_from")', 'Parent("said:" + "0" * 32, "shouted_from")'
    )
    stages.write_text(broken)
    stranger = Stranger(tmp_path, by="folder", source=source)
    said = stranger.refused("run", "loud", "--iterations", "1")
    assert "echo/shouted: the check loud failed" in said and "are not loud" in said
    assert "echo/shouted: the check parents_exist failed" in said and "Dagster" not in said
    outcomes = json.loads((stranger.folder("echo/shouted") / "checks.json").read_text())["outcomes"]
    reasons = {one["name"]: one["reason"] for one in outcomes if not one["passed"]}
    assert "are not loud" in reasons["loud"] and "name a parent" in reasons["parents_exist"]
    assert stranger.rows("echo/shouted") and not stranger.folder("echo/kept").exists()
    stages.write_text(sound)
    stranger.call("run", "loud", "--iterations", "1")
    for stage in ("said", "shouted", "kept"):
        hashes = [row["content_hash"] for row in stranger.rows(f"echo/{stage}")]
        assert hashes == [row["content_hash"] for row in ran.rows(f"echo/{stage}")]
    version = stranger.manifest("echo/kept")["activity"]["code_version"]
    assert version.startswith("1 of echo_method-") and version != "1 of echo_method-1.0"


def test_a_killed_run_goes_on_at_its_last_shard_to_the_same_ids(ran: Stranger, tmp_path: Path) -> None:
    killed = Stranger(tmp_path, by="entry point")
    killed.killed(KILLED)
    (left,) = killed.folder("echo/shouted").glob("*.parquet")
    written = left.stat().st_mtime_ns
    assert not (killed.folder("echo/shouted") / "manifest.json").exists()
    killed.call("run", "loud", "--iterations", "1")
    assert killed.files("echo/shouted")[0].stat().st_mtime_ns == written
    for stage in ("said", "shouted", "decisions", "kept"):
        assert killed.rows(f"echo/{stage}") == ran.rows(f"echo/{stage}")
    killed.ask("lineage", "verify")


BROKEN = {
    "import": ("import nonsense_that_is_nowhere", "nonsense_that_is_nowhere"),
    "no_method": ("x = 1", "METHOD"),
    "no_such_kind": ("METHOD = 'echo'", "it is str, not a Method"),
    "taken_name": ("METHOD = tiny('lmsi', 'tiny')", "the name lmsi is taken"),
    "taken_tag": ("METHOD = tiny('tiny', 'gen')", "the tag gen of tiny/kept is that of"),
    "illegal_name": ("METHOD = tiny('Echo-2', 'tiny')", "its name must consist of lower-case letters"),
    "illegal_tag": ("METHOD = tiny('tiny', 'Tiny!')", "must be one to six lower-case letters"),
    "cycle": (
        "METHOD = replace(ECHO, stages=[replace(ECHO.stages[0], after=['kept']), *ECHO.stages[1:]])",
        "the stages kept, said, shouted depend on each other",
    ),
}
"""Modules of a folder of methods, each with what the warning about it says."""

TINY = """
from dataclasses import replace
from echo_method import METHOD as ECHO
from selfimprove_dagster.method import Stage
from selfimprove_dagster.table import Table

def tiny(name, tag):
    stages = [Stage([Table(f"{name}/kept", tag, {})], print)]
    return replace(ECHO, name=name, stages=stages, counts={}, yields=None)

"""

LOADED = """
import json, warnings
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    from selfimprove_dagster import registry
    from selfimprove_dagster.definitions import defs
    methods = {key.path[0] for key in defs.resolve_asset_graph().get_all_asset_keys()}
print(json.dumps({
    "warnings": [str(one.message) for one in found if issubclass(one.category, registry.MethodWarning)],
    "methods": sorted(methods), "found": sorted(registry.methods()),
}))
"""


def test_each_broken_method_is_one_warning_and_all_others_work(tmp_path: Path) -> None:
    source = tmp_path / "methods"
    shutil.copytree(PACKAGE, source)
    for name, (code, _) in BROKEN.items():
        (source / f"zz_{name}.py").write_text(TINY + code)
    loaded = json.loads(Stranger(tmp_path, by="folder", source=source).python(LOADED))
    warned = {one.split("zz_")[1].split(" ")[0]: one for one in loaded["warnings"]}
    assert len(warned) == len(loaded["warnings"]) == len(BROKEN)
    assert {name for name, (_, said) in BROKEN.items() if said not in warned[name]} == set()
    assert {"echo", "lmsi", "pit"} <= {*loaded["methods"]} == {*loaded["found"]}


# ---- with others -------------------------------------------------------------------------------------


def test_it_is_chained_with_a_shipped_method(tmp_path: Path) -> None:
    stranger = Stranger(tmp_path, by="entry point")
    stranger.write("both", CHAIN)
    stranger.call("run", "both")
    (checkpoint,) = stranger.rows("lmsi/fine_tuned_checkpoint", 0, "both")
    activity = stranger.manifest("echo/said", 0, "both")["activity"]
    assert activity["model_id"] == checkpoint["model_id"]
    assert activity["about"]["champion"] == "the checkpoint of lmsi, iteration 0"
    status = stranger.ask("status", "both")
    assert "both, lmsi" in status and "both, echo" in status and "iteration budget spent" in status
    example = stranger.rows("lmsi/filtered_dataset", 0, "both")[0]["id"]
    descent = json.loads(stranger.ask("lineage", "descendants", example, "--json"))
    assert [one["id"] for one in descent["checkpoints"]] == [checkpoint["id"]]
    assert descent["later"] == [{"experiment": "both", "iteration": 0}], "echo drew from that checkpoint"
    stranger.ask("lineage", "verify")


CHAIN = {
    "methods": ["lmsi", "echo"],
    "model": {"path": "embedded"},
    # A few steps teach nothing, and the checkpoint is to be promoted all the same.
    "promotion": {"rule": "not_worse", "margin": 1.0},
    "budget": {"iterations": 1, "minimum_yield": 0.0},
    "lmsi": {
        "seeds": {"file": "embedded", "rows": "0:60", "licence": "Apache-2.0"},
        "evaluation": {"file": "embedded", "rows": "0:16", "majority_questions": 4, "majority_paths": 2},
        "sampling": {"questions": 12, "paths": 8, "shard_questions": 6},
        "training": {"steps": 2, "batch_size": 4},
    },
    "echo": {"words": EXPERIMENT["words"]},
}
