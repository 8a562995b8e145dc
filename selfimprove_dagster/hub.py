"""Push exported folders to the Hugging Face hub, and keep what left the home.

    <home>/pushed/
        <hex>.json            one push: repository, kind, what it holds; written before the first file is uploaded
        <hex>.records.parquet `id`: the pushed records
        <hex>.done.json       the revisions that hold it, each with its time; missing while the push is unfinished

A push is named by the hash of its repository and its files, so that a repeated one finishes the first. The token is
that of the environment variable HF_TOKEN. It is passed to the hub's client and written nowhere.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.errors import PushError, first_line
from selfimprove_dagster.export import Exported
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.disk import file_checksum, file_system_errors, write_atomically
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.lake.revocations import now

TOKEN = "HF_TOKEN"
ENDPOINT = "HF_ENDPOINT"


@dataclass(frozen=True)
class Revision:
    """A commit of the hub, and the time at which it was pushed (ISO 8601, UTC)."""

    commit: str
    at: str


@dataclass(frozen=True)
class Push:
    """What left the home. `kind` is dataset or model, `files` maps paths to checksums, `begun` is ISO 8601.

    `revisions` is empty while the push is unfinished: some or all of it may be on the hub.
    """

    endpoint: str
    repo: str
    kind: str
    table: str
    experiment: str
    iteration: int
    activity: str
    model_id: str | None
    rows: int
    files: dict[str, str]
    begun: str
    revisions: tuple[Revision, ...] = ()

    @property
    def name(self) -> str:
        """Return the name of its files in the home."""
        return content_hash(
            {"endpoint": self.endpoint, "repo": self.repo, "kind": self.kind, "files": self.files}
        ).removeprefix("b2:")

    @property
    def place(self) -> str:
        """Return where it is, as people read it."""
        where = f"the {self.kind} {self.repo} on {self.endpoint}"
        if not self.revisions:
            return f"{where} (begun at {self.begun} and not finished: it may be there)"
        return f"{where}, " + ", ".join(f"revision {one.commit} of {one.at}" for one in self.revisions)


@dataclass(frozen=True)
class Left:
    """A push that holds revoked rows (their number), or a tainted model (then `rows` is 0)."""

    push: Push
    rows: int


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by their paths in a repository, in order."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def push(home: Home, folder: Path, exported: Exported, repo: str, *, private: bool = True) -> Push:
    """Push a folder to the repository `owner/name`, and record it in the home. A repeated push resumes.

    A new repository is private if `private`. Files that are in the repository and not in the folder stay. Raises
    PushError if the hub refuses it or does not answer; what was recorded until then stays recorded.
    """
    token = os.environ.get(TOKEN, "")
    if not token:
        raise PushError(f"{TOKEN} is not set: set it to a token of the hub that may write to {repo}")
    from huggingface_hub import HfApi, constants

    endpoint = os.environ.get(ENDPOINT, constants.ENDPOINT).rstrip("/")
    manifest = exported.manifest
    planned = Push(
        endpoint,
        repo,
        "dataset" if exported.model_id is None else "model",
        manifest.table,
        manifest.experiment,
        manifest.iteration,
        manifest.activity.id,
        exported.model_id,
        len(exported.records),
        {name: file_checksum(path) for name, path in files_of(folder).items()},
        now(),
    )
    api = HfApi(endpoint=endpoint, token=token)
    _ask(planned, lambda: api.create_repo(repo, private=private, repo_type=planned.kind, exist_ok=True))
    begun = _begin(home, planned, exported.records)
    said = f"{manifest.experiment}, iteration {manifest.iteration}: {manifest.activity.id}"
    commit = _ask(
        planned,
        lambda: api.upload_folder(
            repo_id=repo, folder_path=folder, repo_type=planned.kind, commit_message=said
        ),
    )
    return _finish(home, begun, str(commit.oid))


def _ask(planned: Push, request: Callable[[], Any]) -> Any:
    """Return what the hub answers. Raises PushError with what to do if it refuses or does not answer."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return request()
    except HFValidationError as error:
        raise PushError(
            f"{planned.repo!r} is no name of a repository: give owner/name ({first_line(error)})"
        ) from None
    except Exception as error:  # the hub's client has many, some as the cause of a RuntimeError
        found = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(found, HfHubHTTPError):
            remedy = _REMEDIES.get(found.response.status_code, "run the command again later")
            raise PushError(
                f"{planned.endpoint} refused the push to {planned.repo}: {first_line(found)}; {remedy}"
            ) from None
        if isinstance(found, httpx2.TransportError | OfflineModeIsEnabled | ConnectionError):
            raise PushError(
                f"{planned.endpoint} does not answer ({first_line(found) or type(found).__name__}): run the command "
                "again when it can be reached; files that were uploaded are not uploaded again"
            ) from None
        if isinstance(found, ValueError):  # the card's header, or a malformed answer
            raise PushError(
                f"{planned.endpoint} refused the push to {planned.repo}: {first_line(found)}"
            ) from None
        raise


_REMEDIES = {
    401: f"{TOKEN} is wrong or has expired: set it to a valid token",
    403: f"{TOKEN} may not write there: give it the permission to write, or choose another owner",
    404: "there is no such owner, or the token may not see it",
    409: "the repository was changed at the same time: run the command again",
}


# ---- what left -----------------------------------------------------------------------------------------


def pushes(home: Home) -> list[Push]:
    """Return what left the home, oldest first."""
    found = [_load(path) for path in home.pushed.glob("*.json") if not path.name.endswith(".done.json")]
    return sorted(found, key=lambda one: (one.begun, one.name))


def left_with(home: Home, records: pl.Series, models: Collection[str]) -> list[Left]:
    """Return the pushes that hold some of these records or models, oldest first."""
    found = []
    for one in pushes(home):
        ids = pl.read_parquet(home.pushed / f"{one.name}.records.parquet")["id"]
        rows = int(ids.is_in(records.implode()).sum())
        if rows or one.model_id in models:
            found.append(Left(one, rows))
    return found


def _begin(home: Home, planned: Push, records: pl.Series) -> Push:
    """Record a push before its first upload, unless an equal one was begun; return the recorded one."""
    path = home.pushed / f"{planned.name}.json"
    if path.is_file():
        return _load(path)
    with file_system_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    records.to_frame("id").write_parquet(stream, compression="zstd")
    write_atomically(path.with_suffix(".records.parquet"), stream.getvalue())
    data = {name: value for name, value in vars(planned).items() if name != "revisions"}
    write_atomically(path, json.dumps(data, indent=1).encode())
    return planned


def _finish(home: Home, begun: Push, commit: str) -> Push:
    """Record the revision that holds a push."""
    revisions = list(begun.revisions)
    if not revisions or revisions[-1].commit != commit:
        revisions.append(Revision(commit, now()))
    write_atomically(
        home.pushed / f"{begun.name}.done.json",
        json.dumps([vars(one) for one in revisions], indent=1).encode(),
    )
    return _load(home.pushed / f"{begun.name}.json")


def _load(path: Path) -> Push:
    done = path.with_suffix(".done.json")
    revisions = json.loads(done.read_text()) if done.is_file() else []
    return Push(**json.loads(path.read_text()), revisions=tuple(Revision(**one) for one in revisions))
