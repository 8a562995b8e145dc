"""What the environment says of this installation."""

from __future__ import annotations

import os
from pathlib import Path


def home_folder() -> Path:
    """The folder that SELFIMPROVE_HOME names, by default `.selfimprove` in the working directory."""
    return Path(os.environ.get("SELFIMPROVE_HOME", ".selfimprove")).expanduser().absolute()
