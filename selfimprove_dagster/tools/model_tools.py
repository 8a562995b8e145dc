"""Define tools that use a language model (Schick et al., 2302.04761, section 3).

The paper uses Atlas for questions and NLLB for translation; here any model of `language_model.base` can be
used. A call takes one greedy generation with a bounded number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.language_model.base import LanguageModel, SamplingParameters
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.tools.base import Context, ToolError, read_text
from selfimprove_dagster.tools.prompts import PROMPTS

LONGEST_QUESTION = 300


LONGEST_FOREIGN_TEXT = 500
"""Maximum length of an input in characters."""


_QA_INTRODUCTION = """\
Your task is to add calls to a question answering service to a text. The questions should help to find out \
what the text says next. A call is written "[QA("question")]" just before what the answer tells. Leave the \
text itself as it is. Some examples:"""


_QA_SHOTS = (
    (
        "The composer Clara Schumann was born in Leipzig.",
        'The composer Clara Schumann was born in [QA("Where was Clara Schumann born?")] Leipzig.',
    ),
    (
        "Tin, whose symbol is Sn, melts at 232 degrees.",
        'Tin, whose symbol is [QA("What is the chemical symbol of tin?")] Sn, melts at '
        '[QA("At what temperature does tin melt?")] 232 degrees.',
    ),
    (
        "The Danube ends in the Black Sea.",
        'The Danube ends in [QA("Into which sea does the Danube flow?")] the Black Sea.',
    ),
)


_MT_INTRODUCTION = """\
Your task is to add calls to a translation service to a text, wherever it says in English what a phrase of \
another language means. A call is written "[MT("phrase")]" just before that meaning. Leave the text itself \
as it is. Some examples:"""


_MT_SHOTS = (
    (
        "On the door stood “Bitte klopfen”, please knock.",
        'On the door stood “Bitte klopfen”, [MT("Bitte klopfen")] please knock.',
    ),
    (
        "The ship was named Esperanza, which means hope.",
        'The ship was named Esperanza, which means [MT("Esperanza")] hope.',
    ),
    (
        "Her motto was “doucement mais sûrement”: gently but surely.",
        'Her motto was “doucement mais sûrement”: [MT("doucement mais sûrement")] gently but surely.',
    ),
)


class _ModelTool:
    """A tool that a language model answers; without a model only its shots can be used."""

    name: str
    _asked: str
    _longest: int

    def __init__(self, model: LanguageModel | None, max_tokens: int) -> None:
        self._model = model
        self._prompts = load_prompts([PROMPTS], model.prompting if model else TEXT)
        stop = self._prompts.stops(self._asked)
        self._parameters = SamplingParameters(temperature=0, max_tokens=max_tokens, stop=stop)
        asked = self._prompts.parameters
        self.version = " ".join(
            [
                "1",
                str(max_tokens),
                model.model_id if model else "no model",
                *([content_hash(asked)] if asked else []),
            ]
        )

    def parse(self, arguments: str) -> str | ToolError:
        return read_text(arguments, self._longest)

    def run(self, input: str, context: Context) -> str | ToolError:
        return self.run_all([input])[0]

    def run_all(self, inputs: Sequence[str]) -> list[str | ToolError]:
        """Return the first line of the model's answer to each input, all in one batch, or why there is none.

        Raises ModelError for what concerns every input, such as a server that is down.
        """
        if self._model is None:
            return [ToolError("there is no model to ask")] * len(inputs)
        prompts = self._model.encode_prompts([self._prompts.ask(self._asked, input=one) for one in inputs])
        drawn = self._model.generate(prompts, [[0]] * len(prompts), self._parameters)
        return [ToolError(one.problem) if one.problem else _first_line(one.text) for (one,) in drawn]


class QA(_ModelTool):
    """Answers a question with the first line of the model's completion."""

    name = "QA"
    description = "Answers a question about facts in a few words."
    introduction, shots = _QA_INTRODUCTION, _QA_SHOTS
    _asked = "question"
    _longest = LONGEST_QUESTION

    def __init__(self, model: LanguageModel | None, max_tokens: int = 48) -> None:
        super().__init__(model, max_tokens)


class MT(_ModelTool):
    """Translates into English; the model identifies the language from the text."""

    name = "MT"
    description = "Translates a phrase of another language into English."
    introduction, shots = _MT_INTRODUCTION, _MT_SHOTS
    _asked = "translation"
    _longest = LONGEST_FOREIGN_TEXT

    def __init__(self, model: LanguageModel | None, max_tokens: int = 96) -> None:
        super().__init__(model, max_tokens)


def _first_line(said: str) -> str | ToolError:
    return said.strip().partition("\n")[0] or ToolError("the model said nothing")
