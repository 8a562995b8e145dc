"""The files of `deploy/`: those for containers follow their schemas, and nothing but the proxy is reachable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import yaml
from kit.imports import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OWN = {name: service for name, service in SERVICES.items() if service["image"] == COMPOSE["name"]}


def compose_problems(document: Any) -> list[str]:
    """What the Compose Specification forbids, by the schema that check-jsonschema ships."""
    pytest.importorskip("check_jsonschema", reason="pip install '.[test]'")
    schema = json.loads(
        files("check_jsonschema").joinpath("builtin_schemas", "vendor", "compose-spec.json").read_text()
    )
    validator = jsonschema.validators.validator_for(schema)(schema)
    return [error.message for error in validator.iter_errors(document)]


def test_the_compose_file_follows_the_specification() -> None:
    assert compose_problems(COMPOSE) == []
    assert compose_problems({"services": {"one": {"image": "a", "comand": ["x"]}}}), "the schema finds a typo"


def test_only_the_proxy_has_a_port_outside_and_it_asks_for_a_password() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["proxy"]["ports"])
    assert "--read-only" in SERVICES["webserver"]["command"]
    caddy = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    assert "basic_auth" in caddy and "reverse_proxy webserver:3000" in caddy
    for name in re.findall(r"\{\$([A-Z_]+)", caddy):
        assert name in SERVICES["proxy"]["environment"]


def test_services_have_the_variables_that_dagsters_storage_reads() -> None:
    instance = (DEPLOY / "dagster.yaml").read_text(encoding="utf-8")
    wanted = set(re.findall(r"env: (\w+)", instance))
    assert len(wanted) == 5 and {"daemon", "webserver", "ray-worker"} <= OWN.keys()
    for service in OWN.values():
        assert wanted <= service["environment"].keys()


def test_volumes_and_files_that_are_named_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
    build = OWN["daemon"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_the_image_copies_what_is_there_and_takes_extras_that_exist() -> None:
    import tomllib

    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, re.MULTILINE)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= known.keys()
    for path in re.findall(r"deploy/[\w.]+", text):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize("name", ["daemon", "webserver"])
def test_dagster_knows_the_options_of_its_services(name: str) -> None:
    command, *options = OWN[name]["command"]
    modules = {"dagster-daemon": "dagster._daemon.cli", "dagster-webserver": "dagster_webserver.cli"}
    asked = [sys.executable, "-c", f"from {modules[command]} import main; main()", *options[:1], "--help"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120).stdout
    assert all(option in shown for option in options if option.startswith("--"))
