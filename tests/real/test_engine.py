"""The engine on a chat model that people use, which `make real-model` fetches (Q4_1, dequantised)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove_dagster.answers.answers import extract_answer
from selfimprove_dagster.conversation import Message, ToolCall, ToolCalls, stored
from selfimprove_dagster.embedded import WORD_PROBLEMS
from selfimprove_dagster.families.questions.prompts import PROMPTS
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.language_model.transformers_engine import TransformersLanguageModel
from selfimprove_dagster.language_model.weights import model_id, output_settings, weights_hash
from selfimprove_dagster.methods.lmsi.sampling import read_demonstrations
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.tools.chat import chat_with_tools
from selfimprove_dagster.tools.registry import open_tools

FOLDER = Path(__file__).parents[2] / "build" / "models" / "smollm2-135m-instruct"
QUESTIONS = (
    "What is 17 + 25?",
    "Name three animals that can fly.",
    "Anna has 5 apples and eats 2. How many are left?",
    "Translate to French: good morning.",
)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (FOLDER / "config.json").is_file(), reason="no real model here: make real-model"),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersLanguageModel]:
    model = open_language_model(FOLDER, device="cpu")
    assert isinstance(model, TransformersLanguageModel)
    yield model
    model.close()


def prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for question in QUESTIONS
    ]


def test_greedy_tokens_are_those_of_generate(engine: TransformersLanguageModel) -> None:
    assert engine.shares_prompts
    asked = prompts()
    drawn = engine.generate(asked, [[0, 1]] * len(asked), SamplingParameters(temperature=0, max_tokens=24))
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    for prompt, (first, second) in zip(asked, drawn, strict=True):
        expected = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)
        assert first.token_ids == second.token_ids == expected[0, len(prompt) :].tolist()
        assert engine.score([prompt], [first.token_ids])[0] == pytest.approx(first.logprobs, abs=1e-3)


def test_prompts_are_shared_in_bfloat16(engine: TransformersLanguageModel) -> None:
    """30 layers round further apart than the tenth of the logits' spread that used to be allowed."""
    half = open_language_model(FOLDER, device="cpu", dtype="bfloat16")
    assert isinstance(half, TransformersLanguageModel)
    assert half.dtype == "bfloat16"
    assert half.shares_prompts
    assert half._network.head is not None
    asked = prompts()
    parameters = SamplingParameters(temperature=0, max_tokens=1)
    for ours, theirs in zip(
        half.generate(asked, [[1]] * len(asked), parameters),
        engine.generate(asked, [[1]] * len(asked), parameters),
        strict=True,
    ):
        assert ours[0].token_ids == theirs[0].token_ids
        assert ours[0].logprobs[0] == pytest.approx(theirs[0].logprobs[0], abs=0.1)
    half.close()


def test_its_id_covers_its_chat_template(engine: TransformersLanguageModel) -> None:
    assert output_settings(FOLDER).keys() == {"chat_template"}
    assert engine.model_id == model_id(FOLDER) != weights_hash(FOLDER)


def test_word_problems_end_by_themselves_and_can_be_read(shared_data: Path) -> None:
    """With the chat template and four demonstrations, greedy, in 128 tokens."""
    model = open_language_model(FOLDER, device="cpu", prompting={"path": str(FOLDER)})
    prompts = load_prompts([PROMPTS], model.prompting)
    shown = read_demonstrations(str(WORD_PROBLEMS), 4)
    problems = json.loads((shared_data / "svamp" / "SVAMP.json").read_text(encoding="utf-8"))[:30]
    asked = [
        prompts.ask("few_shot_cot", question=f"{one['Body']} {one['Question']}", demonstrations=shown)
        for one in problems
    ]
    parameters = SamplingParameters(temperature=0, max_tokens=128, stop=prompts.stops("few_shot_cot"))
    drawn = [path for (path,) in model.generate(model.encode_prompts(asked), [[0]] * len(asked), parameters)]
    model.close()
    good = [one for one in drawn if one.finish_reason == "stop" and extract_answer(one.text) is not None]
    assert len(good) >= 28


def test_it_chats_with_tools_to_a_clean_end(tmp_path: Path) -> None:
    """With Qwen's template, which shows tools; its own does not. Whatever it writes, every call has its result."""
    from trl.chat_template_utils import qwen2_5_chat_template

    template = tmp_path / "template.jinja"
    template.write_text(qwen2_5_chat_template)
    model = open_language_model(
        FOLDER, device="cpu", prompting={"path": str(FOLDER), "template": str(template)}
    )
    asked = [stored([Message("user", question)]) for question in QUESTIONS]
    tools = open_tools(["Calculator", "Calendar"])
    parameters = SamplingParameters(temperature=0, max_tokens=64)
    answers = chat_with_tools(model, asked, tools, parameters=parameters, most_calls=2)
    begun = json.loads('{"name": "Calculator", "arguments": {"input": "17 + 25"}}')
    written = f"<tool_call>\n{json.dumps(begun)}\n</tool_call><|im_end|>"
    reply = model.read_reply(AutoTokenizer.from_pretrained(FOLDER)(written)["input_ids"])
    model.close()
    assert [one.call for one in reply.calls] == [ToolCall("Calculator", begun["arguments"])]
    for answer in answers:
        assert len(answer.messages) == len(answer.calls) + sum(
            isinstance(one, ToolCalls) for one in answer.messages
        )
        assert all((one.result is None) != (one.problem is None) for one in answer.calls)
        assert answer.tokens > 0 and "<|im_" not in answer.text and answer.problem is None


def test_word_problems_are_answered_in_json(shared_data: Path) -> None:
    """Greedily and sampled, each with one integer, which is right more often than never."""
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "integer"}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    model = open_language_model(FOLDER, device="cpu", prompting={"path": str(FOLDER)})
    problems = json.loads((shared_data / "svamp" / "SVAMP.json").read_text(encoding="utf-8"))[:8]
    asked = [
        stored([Message("user", f'{one["Body"]} {one["Question"]} Answer as JSON, such as {{"answer": 3}}.')])
        for one in problems
    ]
    structure = Structure.of_schema(schema)
    for temperature in (0.0, 1.0):
        parameters = SamplingParameters(temperature=temperature, max_tokens=32, structure=structure)
        drawn = [path for (path,) in model.generate(model.encode_prompts(asked), [[0]] * 8, parameters)]
        assert [path.finish_reason for path in drawn] == ["stop"] * 8
        assert [structure.mismatch(path.text) for path in drawn] == [None] * 8
        if temperature == 0:
            answers = [json.loads(path.text)["answer"] for path in drawn]
            assert any(found == one["Answer"] for found, one in zip(answers, problems, strict=True))
    model.close()
