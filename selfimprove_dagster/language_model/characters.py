"""Token ids for engines that know no tokens: the ids of a text are the code points of its characters."""

from __future__ import annotations

from collections.abc import Sequence

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.language_model.replies import Reply

CHARACTERS_PER_TOKEN = 4
"""Number of characters that are counted as a token before the provider has counted them."""


class CharacterText:
    """The tokenizer part of `base.LanguageModel` for a provider's model, whose tokenizer is unknown.

    A prompt is sent as text, so that nothing is lost. The character 0 is the end token, and has no text.
    """

    end_token_id = turn_end_id = 0
    vocabulary_size = 0x110000
    prompting: Prompting = TEXT

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the ids of prompts: of texts, or of conversations as tables store them."""
        return self.encode_many(prompts)

    def encode_completions(self, completions: Sequence[str]) -> list[list[int]]:
        """Return the ids of what the model is to say after a prompt."""
        return self.encode_many(completions)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return [ord(character) for character in text]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [self.encode(text) for text in texts]

    def encode_continuation(self, text: str) -> list[int]:
        """Return the ids of a text after a prompt, which are those of the text."""
        return self.encode(text)

    def encode_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return self.encode_many(texts)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the ids."""
        return "".join(chr(token) for token in token_ids if token != self.end_token_id)

    def read_reply(self, token_ids: Sequence[int]) -> Reply:
        """Return the text of a reply; a provider gives its calls of tools with the completion."""
        return Reply(self.decode(token_ids))

    def _cannot(self, what: str) -> ModelError:
        return ModelError(f"a provider's model cannot {what}: its tokens are unknown; use another engine")
