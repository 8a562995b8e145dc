"""A lake with things to review: three votes of `demo`, four preferences and six rollouts of `judged`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kit.small_lake import store
from selfimprove_dagster import registry
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS, VOTED_ANSWERS
from selfimprove_dagster.methods.rlaif.tables import (
    RLAIF_AI_PREFERENCES,
    RLAIF_RESPONSE_PAIRS,
    RLAIF_SEED_POOL,
)

HOSTILE = (
    "=HYPERLINK(1)<script>window.hacked = 1</script><img src=x onerror=alert(1)>\n\x1b[31mred\x1b[0m "
    '‮kcab‬ {{ 7 * 7 }}, "quoted" \'; DROP TABLE records; --'
)
_SOURCE = {"source_file": "s.jsonl", "source_line": 1, "licence": "MIT"}
_DRAWN: dict[str, Any] = {
    "prompt": "Human: …",
    "prompt_token_ids": [1],
    "token_ids": [2],
    "finish_reason": "stop",
}
PREFERENCES = ((0.9, 0.92, 0.88), (0.5, 0.9, 0.1), (0.55, 0.55, 0.55), (0.3, 0.4, 0.2))
"""Probability that the first response is the better, and in each order."""
JUDGED = partition_of("judged", 0)


def add_votes(lake: Lake, *ballots: Sequence[str], iteration: int = 0) -> list[str]:
    """One question for each sequence of answers, one path an answer; the ids of the votes."""
    paths = [
        Draft(
            {
                **_DRAWN,
                "question_id": f"q:{number}",
                "prompt_format": "zero_shot_cot",
                "text": f" So it must be this. The answer is {answer}.",
                "seed": index,
            },
            measures={"logprobs": [-0.5]},
            sample_index=index,
        )
        for number, answers in enumerate(ballots)
        for index, answer in enumerate(answers)
    ]
    _, ids = store(lake, RAW_GENERATIONS, paths, iteration=iteration)
    drafts, start = [], 0
    for number, answers in enumerate(ballots):
        mine, start = ids[start : start + len(answers)], start + len(answers)
        counts = sorted(((answers.count(one), one) for one in set(answers)), reverse=True)
        lead, rest = counts[0][0], counts[1][0] if len(counts) > 1 else 0
        drafts.append(
            Draft(
                {
                    "question_id": f"q:{number}",
                    "question": f"What is question {number}?",
                    "rule": "majority",
                    "voted_answer": counts[0][1],
                    "votes": [{"answer": answer, "count": count} for count, answer in counts],
                    "paths": [
                        {"id": path, "answer": answer} for path, answer in zip(mine, answers, strict=True)
                    ],
                    "tie": lead == rest,
                    "n_paths": len(answers),
                    "n_valid": len(answers),
                    "n_distinct_paths": len(answers),
                },
                [Parent(path, "voted_from") for path in mine],
                {"vote_share": lead / len(answers), "margin": (lead - rest) / len(answers)},
            )
        )
    return store(lake, VOTED_ANSWERS, drafts, iteration=iteration)[1]


def add_preferences(lake: Lake, told: Sequence[tuple[float, float, float]] = PREFERENCES) -> list[str]:
    """Preferences of `judged`, their prompts and responses; the last response is hostile text."""
    partition = {"partition": JUDGED}
    prompts = [
        Draft({"prompt": f"Tell me about {n} goats.", "kind": "helpful", "response": None, **_SOURCE})
        for n in range(len(told))
    ]
    _, asked = store(lake, RLAIF_SEED_POOL, prompts, **partition)
    texts = [(f"There are {n} goats.", f"I will not say, {n} times.") for n in range(len(told))]
    texts[-1] = (texts[-1][0], HOSTILE)
    drawn = [
        Draft(
            {**_DRAWN, "prompt_id": prompt, "text": text, "seed": side},
            [Parent(prompt, "prompt")],
            {"logprobs": [-0.5]},
            sample_index=side,
        )
        for prompt, pair in zip(asked, texts, strict=True)
        for side, text in enumerate(pair)
    ]
    _, responses = store(lake, RLAIF_RESPONSE_PAIRS, drawn, **partition)
    drafts = [
        Draft(
            {
                "prompt_id": asked[n],
                "prompt": prompts[n].content["prompt"],
                "response_ids": responses[2 * n : 2 * n + 2],
                "first": texts[n][0],
                "second": texts[n][1],
                "principles": ["kind"],
            },
            [Parent(response, "response") for response in responses[2 * n : 2 * n + 2]],
            {"probability": probability, "as_first": as_first, "as_second": as_second},
        )
        for n, (probability, as_first, as_second) in enumerate(told)
    ]
    return store(lake, RLAIF_AI_PREFERENCES, drafts, **partition)[1]


def add_rollouts(lake: Lake, prompt: str, rewards: Sequence[float], step: int = 3) -> list[str]:
    """What the policy wrote to a prompt of `judged`, with its rewards."""
    drafts = [
        Draft(
            {
                "prompt_id": prompt,
                "step": step,
                "prompt": "Human: formatted",
                "prompt_token_ids": [1],
                "token_ids": [index],
                "text": f"Rollout {index}.",
            },
            [Parent(prompt, "prompt")],
            {"reward": reward, "advantage": 0.0},
            sample_index=index,
        )
        for index, reward in enumerate(rewards)
    ]
    return store(lake, registry.table("rlaif/rollouts"), drafts, partition=JUDGED)[1]
