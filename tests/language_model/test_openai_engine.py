"""The server engine against a server on 127.0.0.1 that misbehaves as asked."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import GPT2Config

from selfimprove_dagster import embedded
from selfimprove_dagster.conversation import Message, stored
from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.experiment.sections import ModelSection, ServerSection
from selfimprove_dagster.language_model import open_language_model, remote
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.language_model.folder import positions_of
from selfimprove_dagster.language_model.openai_engine import OpenAILanguageModel
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.resources.language_model import LanguageModelResource

KEY = "sk-very-secret-4711"


class Server(ThreadingHTTPServer):
    """Answers completions from `script` first, one misbehaviour a request, then properly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Callable[[Handler], None]] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.busy = self.most_busy = 0
        self.pause = 0.0
        self.takes_ids = self.scores = True
        self.root = str(embedded.BASE_MODEL)
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        model = {
            "id": "served",
            "owned_by": "tests",
            **({"root": self.server.root} if self.server.root else {}),
        }
        self.answer(200, {"data": [model]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            misbehave = server.script.pop(0) if server.script else None
        time.sleep(server.pause)
        try:
            if misbehave is not None:
                misbehave(self)
            else:
                self.complete(body)
        finally:
            with server.lock:
                server.busy -= 1

    def complete(self, body: dict[str, Any]) -> None:
        choices = []
        for index in range(body.get("n", 1)):
            seed = body.get("seed", index)
            choice: dict[str, Any] = {
                "index": index,
                "text": f" {seed}",
                "finish_reason": "stop",
                "logprobs": {"token_logprobs": [-0.5, -0.25]},
            }
            if self.server.takes_ids:
                choice["token_ids"] = [seed % 100 + 5, 0]
            if "prompt_logprobs" in body and self.server.scores:
                places = (
                    {str(token): {"logprob": -place}, **self.likeliest(body["prompt_logprobs"])}
                    for place, token in enumerate(body["prompt"])
                )
                choice["prompt_logprobs"] = [place if at else None for at, place in enumerate(places)]
            choices.append(choice)
        self.answer(200, {"choices": choices[::-1]})

    @staticmethod
    def likeliest(most: int) -> dict[str, dict[str, float]]:
        """Tokens 100, 101, …: the likeliest of a place after the prompt's own first."""
        return {str(100 + rank): {"logprob": -1.0 - rank} for rank in range(most)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def opened(server: Server, **options: Any) -> OpenAILanguageModel:
    model = open_language_model(embedded.BASE_MODEL, engine="openai", url=server.url, **options)
    assert isinstance(model, OpenAILanguageModel)
    server.bodies.clear()
    return model


PARAMETERS = SamplingParameters(temperature=0.8, max_tokens=16, stop=("\n\nQ:",))


@pytest.mark.parametrize("takes_ids", [True, False])
def test_conversations_are_cut_here_as_the_server_would_end_thoughts(server: Server, takes_ids: bool) -> None:
    server.takes_ids = takes_ids
    model = opened(server)
    model.tokenizer.chat_template = "{% for one in messages %}{{ one.content }}{% endfor %}"
    model.prompting = Prompting(chat=True)
    text = "<think>so. or</think>\nThis. That."
    ids = model.encode_continuation(text)

    def answer(handler: Handler) -> None:
        choice = {"text": text, "finish_reason": "length", "token_ids": ids if takes_ids else None}
        handler.answer(200, {"choices": [{**choice, "logprobs": {"token_logprobs": [-0.5] * len(ids)}}]})

    server.script = [answer]
    prompts = model.encode_prompts([stored([Message("user", "Which?")])])
    ((drawn,),) = model.generate(prompts, [[1]], SamplingParameters(max_tokens=99, stop=(".",)))
    assert server.bodies[-1]["stop"] is None
    assert (drawn.text, drawn.finish_reason) == ("This", "stop")
    assert model.decode(drawn.token_ids) == "<think>so. or</think>\nThis."
    assert len(drawn.logprobs) == len(drawn.token_ids)
    model.prompting = TEXT
    model.generate(prompts, [[1]], SamplingParameters(max_tokens=9, stop=(".",)))
    assert server.bodies[-1]["stop"] == ["."]


@pytest.mark.parametrize("send_seeds", [True, False])
def test_a_text_goes_on_after_a_stop_string_within_its_thoughts(server: Server, send_seeds: bool) -> None:
    """A server that says which string ended a text, such as vLLM's, is asked for the rest of it."""
    model = opened(server, send_seeds=send_seeds)
    said = [("<think>so.", "."), (" or</think>", "</think>"), ("This.", ".")]
    ids = [model.encode_continuation(text) for text, _ in said]

    def answer(part: int) -> Callable[[Handler], None]:
        text, stop = said[part]
        choice = {"text": text.removesuffix(stop), "finish_reason": "stop", "stop_reason": stop}
        logprobs = {"token_logprobs": [-0.5] * len(ids[part])}
        return lambda handler: handler.answer(
            200, {"choices": [{**choice, "token_ids": ids[part], "logprobs": logprobs}]}
        )

    server.script = [answer(part) for part in range(3)]
    counted: list[tuple[int, int]] = []
    ((drawn,),) = model.generate(
        [[5, 6]],
        [[1]],
        SamplingParameters(max_tokens=99, stop=(".",)),
        lambda rows, tokens: counted.append((rows, tokens)),
    )
    assert (drawn.text, drawn.finish_reason) == ("This", "stop")
    assert drawn.token_ids == [*ids[0], *ids[1], *ids[2]]
    assert len(drawn.logprobs) == len(drawn.token_ids)
    first, second, third = server.bodies
    assert [body["stop"] for body in server.bodies] == [["."], ["</think>"], ["."]]
    assert third["prompt"] == [*second["prompt"], *ids[1]] == [5, 6, *ids[0], *ids[1]]
    assert third["max_tokens"] == second["max_tokens"] - len(ids[1]) == 99 - len(ids[0]) - len(ids[1])
    assert len({body.get("seed") for body in server.bodies}) == (3 if send_seeds else 1)
    assert counted == [(1, len(ids[0])), (0, len(ids[1])), (0, len(ids[2]))]
    assert first["prompt"] == [5, 6]


def test_thoughts_that_are_cut_off_have_no_text(server: Server) -> None:
    model = opened(server)
    first, second = (model.encode_continuation(text) for text in ("<think>so.", " or. and"))
    ended = {"finish_reason": "stop", "stop_reason": "."}

    def answer(ids: list[int], **changes: Any) -> Callable[[Handler], None]:
        logprobs = {"token_logprobs": [-0.5] * len(ids)}
        choice = {"text": model.decode(ids), "token_ids": ids, "logprobs": logprobs, **changes}
        return lambda handler: handler.answer(200, {"choices": [choice]})

    server.script = [answer(first, **ended), answer(second, finish_reason="length")]
    most = len(first) + len(second)
    ((drawn,),) = model.generate([[5, 6]], [[1]], SamplingParameters(max_tokens=most, stop=(".",)))
    assert (drawn.text, drawn.finish_reason, drawn.token_ids) == ("", "length", [*first, *second])


@pytest.mark.parametrize("takes_ids", [True, False])
def test_a_server_that_does_not_say_what_ended_a_text_is_asked_once(server: Server, takes_ids: bool) -> None:
    server.takes_ids = takes_ids
    model = opened(server)
    ids = model.encode_continuation("<think>so.")
    choice = {"text": "<think>so", "finish_reason": "stop", "token_ids": ids if takes_ids else None}
    logprobs = {"token_logprobs": [-0.5] * len(ids)}
    server.script = [lambda handler: handler.answer(200, {"choices": [{**choice, "logprobs": logprobs}]})]
    ((drawn,),) = model.generate([[5, 6]], [[1]], SamplingParameters(max_tokens=99, stop=(".",)))
    assert (drawn.text, drawn.finish_reason, len(server.bodies)) == ("", "stop", 1)


def status(code: int, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(code, {"error": "as asked"}, headers)


def half_a_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"te')
    handler.close_connection = True


def whole_but_no_json(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "6")
    handler.end_headers()
    handler.wfile.write(b"<html>")


def nothing(handler: Handler) -> None:
    handler.close_connection = True


def silence(handler: Handler) -> None:
    time.sleep(0.6)
    handler.close_connection = True


@pytest.mark.parametrize(
    "misbehave",
    [status(429), status(500), status(503), status(408), half_a_body, whole_but_no_json, nothing, silence],
    ids=["429", "500", "503", "408", "half", "no_json", "nothing", "silence"],
)
def test_what_a_busy_or_broken_server_failed_to_answer_is_asked_again(
    server: Server, misbehave: Callable[[Handler], None]
) -> None:
    model = opened(server, deadline=0.3)
    server.script = [misbehave, misbehave]
    ((path,),) = model.generate([[5, 6]], [[42]], PARAMETERS)
    assert (path.text, path.token_ids, path.logprobs) == (" 42", [47, 0], [-0.5, -0.25])
    assert len(server.bodies) == 3


def test_a_failure_that_stays_is_told_with_what_to_do(server: Server) -> None:
    model = opened(server, attempts=3)
    server.script = [status(500)] * 9
    with pytest.raises(ModelError, match=r"failed 3 times, finally with: status 500\. Check its log;"):
        model.generate([[5]], [[1]], PARAMETERS)


def test_the_server_s_own_wait_is_respected(server: Server) -> None:
    model = opened(server)
    server.script = [status(429, **{"Retry-After": "0.4"})]
    started = time.monotonic()
    model.generate([[5]], [[1]], PARAMETERS)
    assert time.monotonic() - started >= 0.4


def test_a_refusal_is_final_and_keeps_the_key_to_itself(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    model = opened(server)
    server.script = [lambda handler: handler.answer(401, {"error": f"no such key: {KEY}"})]
    with pytest.raises(ModelError, match=r"refused with status 401: .*no such key: \*\*\*") as refusal:
        model.generate([[5]], [[1]], PARAMETERS)
    assert len(server.bodies) == 1
    assert server.keys[-1] == f"Bearer {KEY}"
    assert KEY not in str(refusal.value) + caplog.text


def test_requests_run_side_by_side_up_to_the_bound(server: Server) -> None:
    model = opened(server, concurrency=5)
    server.pause = 0.05
    counted: list[int] = []
    seeds = [[10 * prompt + sample for sample in range(4)] for prompt in range(6)]
    drawn = model.generate([[5]] * 6, seeds, PARAMETERS, lambda rows, tokens: counted.append(rows))
    assert [[path.text for path in row] for row in drawn] == [[f" {seed}" for seed in row] for row in seeds]
    assert server.most_busy == 5
    assert sum(counted) == 24


def test_without_seeds_one_request_draws_all_paths_of_a_prompt(server: Server) -> None:
    model = opened(server, send_seeds=False)
    drawn = model.generate([[5], [6]], [[1, 2, 3], [4]], PARAMETERS)
    assert [len(row) for row in drawn] == [3, 1]
    assert [path.text for path in drawn[0]] == [" 0", " 1", " 2"]
    assert not any("seed" in body for body in server.bodies)


@pytest.mark.parametrize("send_seeds", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_path_belongs_to_the_prompt_that_it_follows(
    server: Server, send_seeds: bool, temperature: float
) -> None:
    """A prompt without rows, and one that does not fit, take no answer of the others."""

    def complete(handler: Handler, body: dict[str, Any]) -> None:
        (token,) = body["prompt"]
        path = {"text": f" {token}", "token_ids": [token], "logprobs": {"token_logprobs": [-0.5]}}
        handler.answer(200, {"choices": [path] * body.get("n", 1)})

    model = opened(server, send_seeds=send_seeds)
    server.RequestHandlerClass = type("Parrot", (Handler,), {"complete": complete})
    prompts, counts = [[5], [6], [7] * model.positions, [8], [9]], [3, 0, 2, 1, 4]
    counted: list[tuple[int, int]] = []
    drawn = model.generate(
        prompts,
        [[*range(count)] for count in counts],
        SamplingParameters(temperature=temperature, max_tokens=16),
        lambda rows, tokens: counted.append((rows, tokens)),
    )
    assert [[path.text for path in row] for row in drawn] == [[" 5"] * 3, [], [""] * 2, [" 8"], [" 9"] * 4]
    assert [path.finish_reason for row in drawn for path in row if path.problem] == ["too_long"] * 2
    assert [sum(column) for column in zip(*counted, strict=True)] == [10, 8]


def test_scores_are_those_of_the_continuation_alone(server: Server) -> None:
    model = opened(server)
    assert model.score([[5, 6], [7]], [[8, 9], []]) == [[-2.0, -3.0], []]


def test_the_likeliest_tokens_are_asked_of_the_server(server: Server) -> None:
    """At place j of the prompt its own token has the log-probability -j, the others -1, -2, …"""
    model = opened(server)
    contexts, continuations = [[5], [7]], [[8, 9, 10, 11], []]
    for token, most, expected in (
        (100, 1, [True] * 4),  # ties with the prompt's own token at its first place
        (102, 3, [False, False, True, True]),
        (103, 3, [False] * 4),
        (11, 3, [False] * 4),
        (11, 4, [False, False, False, True]),  # ties with the last of the likeliest
    ):
        found = model.among_likeliest(contexts, continuations, token, most)
        assert server.bodies[-1]["prompt_logprobs"] == most
        assert found == [expected, []], token
    with pytest.raises(ModelError, match="request 1 to 20"):
        model.among_likeliest([], [], 5, 21)
    server.takes_ids = False
    with pytest.raises(ModelError, match="does not accept token ids"):
        opened(server).among_likeliest([[5]], [[6]], 5, 1)


def test_a_server_of_text_is_spoken_to_in_text_and_says_so(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.takes_ids = False
    model = opened(server)
    assert "does not support token ids" in caplog.text
    ids = model.encode("What is 1 + 1?")
    ((path,),) = model.generate([ids], [[42]], PARAMETERS)
    assert server.bodies[-1]["prompt"] == "What is 1 + 1?"
    assert model.decode(path.token_ids) == path.text == " 42"
    with pytest.raises(ModelError, match="does not accept token ids, so it cannot score"):
        model.score([ids], [ids])


@pytest.mark.parametrize("lacks", ["takes_ids", "scores"])
def test_a_method_that_scores_learns_at_once_that_the_server_cannot(server: Server, lacks: str) -> None:
    setattr(server, lacks, False)
    section = ModelSection(
        path=str(embedded.BASE_MODEL), engine="openai", server=ServerSection(url=server.url)
    )
    resource = LanguageModelResource()
    with resource.open(section) as model:
        assert model.generate([[5]], [[42]], PARAMETERS)
    with pytest.raises(ModelError, match="cannot score") as raised, resource.open(section, scores=True):
        pytest.fail("opened")
    assert "\n" not in str(raised.value) and server.url in str(raised.value)


def test_a_server_that_refuses_the_question_cannot_score(server: Server) -> None:
    def refuse(handler: Handler) -> None:
        handler.answer(400, {"error": "unknown field prompt_logprobs"})

    server.script = [lambda handler: handler.complete(server.bodies[-1]), refuse]
    model = opened(server)
    with pytest.raises(ModelError, match=r"refused with status 400: .*unknown field prompt_logprobs"):
        model.score([[5]], [[6]])


def test_positions_under_another_name_are_known(tmp_path: Path) -> None:
    GPT2Config(n_positions=96).save_pretrained(tmp_path)
    assert "max_position_embeddings" not in (tmp_path / "config.json").read_text()
    assert positions_of(tmp_path) == 96


def test_a_server_of_another_model_is_refused(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"other weights")
    server.root = str(other)
    with pytest.raises(ModelError, match=r"serves served, not the model in .*: start it again with"):
        opened(server)


def test_no_server_at_all_is_told_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"the server at http://127\.0\.0\.1:9/v1 failed 2 times, .*Connect"):
        open_language_model(
            embedded.BASE_MODEL, engine="openai", url="http://user:word@127.0.0.1:9/v1", attempts=2
        )


# ---- structured output ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "sent"),
    [
        (Structure(regex=r" \d+"), {"regex": r" \d+"}),
        (Structure.of_schema({"type": "integer"}), {"json": {"type": "integer"}}),
    ],
)
def test_a_structure_is_sent_in_vllm_s_field(
    server: Server, structure: Structure, sent: dict[str, Any]
) -> None:
    model = opened(server)
    ((path,),) = model.generate([[5]], [[42]], replace(PARAMETERS, structure=structure))
    assert server.bodies[-1]["structured_outputs"] == sent and path.text == " 42"
    model.generate([[5]], [[42]], PARAMETERS)
    assert "structured_outputs" not in server.bodies[-1]


def test_a_server_that_ignores_a_structure_is_found_out_by_its_answer(server: Server) -> None:
    model = opened(server)
    letter = replace(PARAMETERS, structure=Structure(regex="[A-D]"))
    with pytest.raises(
        ModelError, match=r"answered ' 42', where the regular expression \[A-D\] was asked for: .*vLLM"
    ):
        model.generate([[5]], [[42]], letter)
    for changes in ({"finish_reason": "length"}, {"stop_reason": "\n\nQ:"}):
        choice = {"text": " 42", "token_ids": [47], "logprobs": {"token_logprobs": [-0.5]}, **changes}
        server.script = [lambda handler, choice=choice: handler.answer(200, {"choices": [choice]})]
        assert model.generate([[5]], [[42]], letter)[0][0].text == " 42"


def test_a_server_that_refuses_a_structure_is_quoted(server: Server) -> None:
    model = opened(server)
    server.script = [lambda handler: handler.answer(400, {"error": "unknown field structured_outputs"})] * 2
    with pytest.raises(ModelError, match=r"refused with status 400: .*unknown field structured_outputs"):
        model.generate([[5]], [[42]], replace(PARAMETERS, structure=Structure(regex="[A-D]")))


# ---- prompts that the server does not answer ------------------------------------------------------------


def choice(**changes: Any) -> Callable[[Handler], None]:
    proper = {"text": " 1", "token_ids": [6], "logprobs": {"token_logprobs": [-0.5]}, "finish_reason": "stop"}
    return lambda handler: handler.answer(200, {"choices": [{**proper, **changes}]})


def poisoned(server: Server, poison: Callable[[Handler], None], token: int = 666) -> None:
    """Let the server misbehave whenever the prompt contains a token."""
    proper = Handler.complete

    def complete(handler: Handler, body: dict[str, Any]) -> None:
        poison(handler) if token in body["prompt"] else proper(handler, body)

    server.RequestHandlerClass = type("Poisoned", (Handler,), {"complete": complete})


POISONS = {
    "400": (status(400), "refused", 'refused: the server refused with status 400: {"error": "as asked"}'),
    "500": (status(500), "failed", "failed: the server failed 2 times, finally with: status 500"),
    "half": (half_a_body, "failed", "failed: the server failed 2 times, finally with: RemoteProtocolError"),
    "silence": (
        lambda handler: time.sleep(3),
        "failed",
        "failed: the server failed 2 times, finally with: no answer within 2 s",
    ),
    "null": (choice(text=None), "failed", "failed: the server returned no text"),
    "no_ids": (choice(token_ids=None), "failed", "failed: the server returned no token ids"),
    "no_logprob": (
        choice(logprobs={"token_logprobs": [None]}),
        "failed",
        "failed: the server returned a token without its log-probability",
    ),
    "nothing": (
        lambda handler: handler.answer(200, {"choices": []}),
        "failed",
        "failed: the server answered without a completion",
    ),
    "filtered": (
        choice(text="", finish_reason="content_filter"),
        "refused",
        "refused: the server's content filter left out the text",
    ),
}


@pytest.mark.parametrize(
    ("name", "send_seeds"), [*((name, True) for name in POISONS), ("400", False), ("null", False)]
)
def test_a_prompt_that_the_server_does_not_answer_is_one_failed_row(
    server: Server, name: str, send_seeds: bool
) -> None:
    poison, reason, problem = POISONS[name]
    model = opened(server, attempts=2, deadline=2.0 if name == "silence" else 60.0, send_seeds=send_seeds)
    poisoned(server, poison)
    finished: list[int] = []
    drawn = model.generate(
        [[5], [666], [7]], [[1, 2], [3, 4], [5]], PARAMETERS, lambda rows, tokens: finished.append(rows)
    )
    assert [[path.finish_reason for path in row] for row in drawn] == [["stop"] * 2, [reason] * 2, ["stop"]]
    assert [path.text for path in drawn[0] + drawn[2]] == (
        [" 1", " 2", " 5"] if send_seeds else [" 0", " 1", " 0"]
    )
    failed = drawn[1][0]
    assert (failed.text, failed.token_ids, failed.logprobs) == ("", [], [])
    assert failed.problem is not None and failed.problem.startswith(problem)
    assert sum(finished) >= 4


def test_an_empty_completion_is_a_completion(server: Server) -> None:
    model = opened(server)
    server.script = [choice(text="", token_ids=[], logprobs=None)]
    ((path,),) = model.generate([[5]], [[1]], PARAMETERS)
    assert (path.text, path.finish_reason, path.problem) == ("", "stop", None)


def test_a_server_that_breaks_down_is_no_fault_of_the_prompts(server: Server) -> None:
    model = opened(server, attempts=2, concurrency=1)
    poisoned(server, status(500))
    server.script = [lambda handler: handler.complete(server.bodies[-1])] + [status(500)] * 99
    with pytest.raises(ModelUnavailable, match=r"failed 2 times, finally with: status 500\. Check its log;"):
        model.generate([[5], [6], [7]], [[1], [2], [3]], PARAMETERS)
    assert len(server.bodies) == 1 + 2 + 2, "the first failure is followed by a question to the server alone"


def test_no_problem_holds_the_key(server: Server) -> None:
    model = opened(server)
    poisoned(server, lambda handler: handler.answer(400, {"error": "." * 280 + KEY}))
    ((path,),) = model.generate([[666]], [[1]], PARAMETERS)
    assert path.finish_reason == "refused" and "sk-" not in str(path.problem)


def test_a_prompt_without_room_is_not_sent(server: Server) -> None:
    model = opened(server)
    model.positions = 4
    drawn = model.generate([[5], [6] * 4], [[1], [2, 3]], PARAMETERS)
    assert [[path.finish_reason for path in row] for row in drawn] == [["stop"], ["too_long"] * 2]
    assert drawn[1][0].problem == "too_long: the prompt has 4 tokens, and the model has 4 positions"
    assert len(server.bodies) == 1


def test_a_continuation_that_cannot_be_scored_has_no_numbers(server: Server) -> None:
    model = opened(server)
    model.positions = 4
    poisoned(server, status(400))
    found = model.score([[5, 6], [5, 6], [666]], [[8], [8, 9], [7]])
    assert found[0] == [-2.0] and np.isnan([*found[1], *found[2]]).tolist() == [True] * 3
    assert model.among_likeliest([[5], [666]], [[8], [9]], 8, 1) == [[True], [False]]
    likely = model.option_probabilities([[5], [666]], [[8], [9]])
    assert likely[0] == [0.5, 0.5] and np.isnan(likely[1]).all()


# ---- several servers, and answers that cost money -------------------------------------------------------


def test_a_server_that_is_down_is_left_out_if_another_has_the_model(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    model = open_language_model(
        embedded.BASE_MODEL, engine="openai", url=["http://127.0.0.1:9/v1", server.url], attempts=2
    )
    assert "it is left out for a while" in caplog.text
    drawn = model.generate([[5]] * 4, [[1], [2], [3], [4]], PARAMETERS)
    assert [path.text for (path,) in drawn] == [" 1", " 2", " 3", " 4"]
    with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1:9/v1 failed 2 times"):
        open_language_model(
            embedded.BASE_MODEL,
            engine="openai",
            url=["http://127.0.0.1:7/v1", "http://127.0.0.1:9/v1"],
            attempts=2,
        )


def test_answers_that_cost_money_are_stored(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path))
    model = opened(server, prices={"input": 1.0, "output": 2.0})
    first = model.generate([[5], [6]], [[1], [2]], PARAMETERS)
    assert (
        opened(server, prices={"input": 1.0, "output": 2.0}).generate([[5], [6]], [[1], [2]], PARAMETERS)
        == first
    )
    assert server.bodies == []
    opened(server).generate([[5]], [[1]], PARAMETERS)
    assert len(server.bodies) == 1, "without prices nothing is stored or read"
