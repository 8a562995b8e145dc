"""Say which model of a provider is asked, without asking it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.remote import place_of

PACKAGES = {"openai": "openai", "litellm": "litellm"}
"""The package through which each kind of interface is asked. Both are optional extras, of the same names."""


def provider_id(
    name: str,
    *,
    url: str | Sequence[str] | None,
    api: str = "openai",
    snapshot: str = "",
    request: Mapping[str, Any] | None = None,
    answers: int = 1,
) -> str:
    """Return the `model_id` of a provider's model: a hash of all that decides which model answers, and how.

    This is host and path of the (first) address, the name, `snapshot`, which users set when they know that the
    provider has changed the model, the fields that are added to each request, and how many answers choose an option.
    """
    asked = [api, provider_of(url, api), name, snapshot, dict(request or {}), answers]
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "b2:" + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def provider_of(url: str | Sequence[str] | None, api: str = "openai") -> str:
    """Return host and path of the (first) address; the name of the interface without one."""
    first = url if isinstance(url, str) or url is None else next(iter(url), None)
    return place_of(first) if first else api


def check_installed(api: str) -> None:
    """Raise ModelError if the package for a kind of interface is missing."""
    package = PACKAGES[api]
    if find_spec(package) is None:
        extra = "chat" if api == "openai" else "litellm"
        raise ModelError(
            f"the engine chat needs the package {package}: install it with `pip install "
            f"'selfimprove_dagster[{extra}]'`"
        )
