"""The job in distilabel's own idiom: TransformersLLM, TextGeneration, and a step that votes.

Run by `compare.py` with the Python of an environment that has distilabel; imports nothing of this project.
Votes go to `<out>/votes` as a distiset; seconds of loading and generating are added to `<out>/seconds.jsonl`.
"""

import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

from distilabel.models import TransformersLLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepInput, step
from distilabel.steps.tasks import TextGeneration

JOB = json.loads(Path(sys.argv[1]).read_text())
OUT = Path(JOB["out"])
ANSWER = re.compile(r"The answer is (.+?)\.?\s*$", re.MULTILINE)


def note(what, seconds):
    with (OUT / "seconds.jsonl").open("a") as stream:
        stream.write(json.dumps({what: seconds}) + "\n")


class TimedLLM(TransformersLLM):
    """TransformersLLM that notes what it takes; `pipeline_batch` prompts at a time inside transformers."""

    pipeline_batch: int = 1

    def load(self):
        began = time.perf_counter()
        super().load()
        if self.pipeline_batch > 1:
            self._pipeline.tokenizer.padding_side = "left"
            self._pipeline._batch_size = self.pipeline_batch
        generator = type(self._pipeline)
        generator.__call__ = timed(generator.__call__, "generate")
        note("load", time.perf_counter() - began)


def timed(function, what):
    """The function, its seconds noted."""

    def call(*args, **kwargs):
        began = time.perf_counter()
        result = function(*args, **kwargs)
        note(what, time.perf_counter() - began)
        return result

    return call


@step(inputs=["generation"], outputs=["votes", "voted_answer"])
def majority(inputs: StepInput):
    for row in inputs:
        found = [ANSWER.search(text or "") for text in row["generation"]]
        votes = Counter(match.group(1) for match in found if match).most_common()
        row["votes"] = [{"answer": answer, "count": count} for answer, count in votes]
        row["voted_answer"] = votes[0][0] if votes else None
    yield inputs


if __name__ == "__main__":
    note("start", time.time() - JOB["began"])
    with Pipeline(name="vote") as pipeline:
        load = LoadDataFromDicts(data=[{"instruction": prompt} for prompt in JOB["prompts"]])
        generate = TextGeneration(
            llm=TimedLLM(
                model=JOB["model"],
                device="cpu",
                torch_dtype="float32",
                pipeline_batch=JOB["pipeline_batch"],
                generation_kwargs={
                    "temperature": JOB["temperature"],
                    "max_new_tokens": JOB["max_tokens"],
                    "repetition_penalty": 1.0,
                    "top_p": 1.0,
                    "top_k": 0,
                },
            ),
            num_generations=JOB["samples"],
            group_generations=True,
            input_batch_size=JOB["input_batch"],
        )
        load >> generate >> majority()
    distiset = pipeline.run(use_cache=False)
    distiset.save_to_disk(str(OUT / "votes"), save_card=False)  # the card wants Pillow
    rows = distiset["default"]["train"]
    prompts = [row["instruction"] for row in rows]
    votes = dict(zip(prompts, rows["voted_answer"], strict=True))
    (OUT / "votes.json").write_text(json.dumps([votes[prompt] for prompt in JOB["prompts"]]))
