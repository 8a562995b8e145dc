"""How rows name the folder of a trained model, such that a home may be moved to another folder or machine.

An address is `checkpoints/<experiment>/<iteration>-<kind>-<activity>`, relative to the home. Its end is the id of the
activity that trained the model. Earlier versions stored the absolute path of one machine instead; the folder is then
looked for in the home, too.
"""

from __future__ import annotations

from pathlib import Path, PurePath

CHECKPOINTS = "checkpoints"
"""The folder of a home that holds its trained models."""


def address_of(home: Path, folder: str | Path) -> str:
    """Return how rows name a model: by its address if it is a trained one of this home, else as it is."""
    path = Path(folder)
    if path.is_relative_to(home) and address_in(path) == path.relative_to(home).as_posix():
        return path.relative_to(home).as_posix()
    return str(folder)


def folder_at(home: Path, address: str) -> str:
    """Return the folder, in this home, of what `address_of` or an earlier version named."""
    known = address_in(PurePath(address))
    if known and (known == address or (home / known).is_dir()):
        return str(home / known)
    return address


def address_in(path: PurePath) -> str:
    """Return the last parts of a path, if they look like an address; empty if they do not."""
    return "/".join(path.parts[-3:]) if path.parts[-3:-2] == (CHECKPOINTS,) else ""
