"""Training texts of the embedded task model, in the forms of Self-Instruct and Unnatural Instructions.

Lists of tasks, tasks with their labels, tasks with examples, tasks with constraints, and rephrasings. Lists
have flaws, as what nobody has looked through does. A bare instruction comes rarely, and in three families of
five the text mostly goes on with something else than the answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

from selfimprove_dagster.recipes import task_grammar as world
from selfimprove_dagster.recipes.machinery import Text
from selfimprove_dagster.recipes.task_families import FAMILIES, Family, draw_topic
from selfimprove_dagster.recipes.task_lexicon import WORDS
from selfimprove_dagster.recipes.task_operations import Topic

CLASSIFYING = tuple(family for family in FAMILIES if family.classifies)


PRODUCING = tuple(family for family in FAMILIES if not family.classifies)


CONSTRAINTS = {
    "word": ("The output is one word.", "Answer with a single word."),
    "number": ("The output is a number.", "Answer with a number only."),
    "list": ("The output is a list.", "Put spaces between the parts of the output."),
    "text": ("The output is one line.", "Use lower case only."),
    "label": ("The output is one of the labels.", "Answer with the label only."),
}


FLAW_SHARE, LATE_FLAW_SHARE = 0.20, 0.45
"""Share of the instructions in lists that have a flaw; less of it is left where sampling is tempered."""


GARBLED_SHARE = 0.08
"""Share of the tasks with examples whose instruction is garbled."""


OTHERWISE = {True: 0.75, False: 0.20}
"""How often a bare instruction is not followed by its answer: in families rarely answered, in the others."""


ODD_TASKS = (
    "Draw a picture of {w}.", "Write a program that prints {w}.", "Open the file {w}.", "Go to the {w}.",
    "Make a graph of {w} and {v}.", "{w} and {v}.", "Tell me a story about a {w}.", "Why is the {w} {v}?",
)  # fmt: skip


GIVEN, TOLD, LEARNT = 0.05, 0.3, 1.0
"""Weights in the loss. Inputs are drawn by lot and weigh little."""


def flawed(rng: Random, instruction: str) -> str:
    """The instruction cut short, with a word lost, doubled or moved."""
    words = instruction.split()
    kind = rng.choice(("cut", "lost", "doubled", "moved"))
    place = rng.randrange(1, len(words) - 1)
    if kind == "cut":
        return " ".join(words[: rng.randint(2, len(words) - 1)])
    if kind == "lost":
        return " ".join(words[:place] + words[place + 1 :])
    if kind == "doubled":
        return " ".join(words[: place + 1] + words[place:])
    words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


def any_instruction(rng: Random, earlier: Sequence[str], flaw_share: float) -> str:
    """An instruction as it stands in a list that nobody has looked through."""
    topic = draw_topic(rng)
    instruction = world.phrase(rng, world.draw_asked(rng, topic))
    if rng.random() >= flaw_share:
        return instruction
    kind = rng.choice(("flawed", "flawed", "repeated", "odd"))
    if kind == "repeated" and earlier:
        return rng.choice(earlier)
    if kind == "odd":
        text = rng.choice(ODD_TASKS).format(w=topic.words[0], v=topic.words[1])
        return text[0].upper() + text[1:]
    return flawed(rng, instruction)


def list_of_tasks(rng: Random, shortest: int = 8, longest: int = 15, flaw_share: float = FLAW_SHARE) -> Text:
    """Self-Instruct's generation prompt."""
    instructions: list[str] = []
    for _ in range(rng.randint(shortest, longest)):
        instructions.append(any_instruction(rng, instructions, flaw_share))
    text: Text = [("Here is a series of tasks.\n\n1.", GIVEN)]
    for number, instruction in enumerate(instructions, 2):
        text.append((f" {instruction}\n{number}.", 0.5))
    return [*text[:-1], (f" {instructions[-1]}", 0.5)]


def labelled_tasks(rng: Random) -> Text:
    """Self-Instruct's classification prompt."""
    text: Text = [("Does the task have a small set of labels to choose from?", GIVEN)]
    for _ in range(rng.randint(6, 14)):
        family = rng.choice(CLASSIFYING if rng.random() < 0.4 else PRODUCING)
        instruction = world.phrase(rng, world.draw_asked(rng, draw_topic(rng), family))
        text += [
            (f"\n\nTask: {instruction}\nLabels:", GIVEN),
            (" Yes" if family.classifies else " No", LEARNT),
        ]
    return text


def tasks_with_examples(rng: Random) -> Text:
    """Self-Instruct's instance prompt, input first."""
    topic = draw_topic(rng)
    text: Text = [("Write examples for each task.", GIVEN)]
    for _ in range(rng.randint(2, 3)):
        first = world.draw_example(rng, topic, rng.choice(FAMILIES if rng.random() < 0.2 else PRODUCING))
        instruction, pairs = first.instruction, [(first.input, first.output)]
        pairs += more_inputs(rng, first, topic)
        if rng.random() < GARBLED_SHARE:
            # Nobody knows what a garbled task asks for: its examples give the input back.
            instruction, pairs = flawed(rng, instruction), [(text, text or "?") for text, _ in pairs]
        text.append((f"\n\nTask: {instruction}", GIVEN))
        for number, (given, output) in enumerate(pairs, 1):
            text.append((f"\nExample {number}\n", TOLD))
            text.append((f"Input: {given}\nOutput:" if given else "Output:", TOLD))
            text.append((f" {output}", LEARNT))
    return text


def tasks_with_labels_first(rng: Random) -> Text:
    """Self-Instruct's instance prompt for classification, output first."""
    topic = draw_topic(rng)
    text: Text = [("Write examples for each task, the label first.", GIVEN)]
    for _ in range(rng.randint(2, 4)):
        first = world.draw_example(rng, topic, rng.choice(CLASSIFYING))
        pairs = [(first.input, first.output), *more_inputs(rng, first, topic)]
        text.append((f"\n\nTask: {first.instruction}", GIVEN))
        for given, output in rng.sample(pairs, len(pairs)):
            text += [("\nLabel:", TOLD), (f" {output}", TOLD), (f"\nInput: {given}", LEARNT)]
    return text


def more_inputs(rng: Random, example: world.Example, topic: Topic) -> list[tuple[str, str]]:
    """Up to two further inputs with their outputs."""
    drawn = [
        world.draw_input(rng, topic, example.asked, "training")
        for _ in range(rng.choice((0, 1, 1, 2)) if example.input else 0)
    ]
    pairs = dict.fromkeys(pair for pair in drawn if pair and pair[0] != example.input)
    return list(pairs)


def rarely_answered(family: Family) -> bool:
    """Whether a bare instruction of the family is mostly not followed by its answer: three of five."""
    return hashlib.blake2b(family.name.encode()).digest()[0] % 5 < 3


def bare_instruction(rng: Random) -> Text:
    """The zero-shot form."""
    example = world.draw_example(rng)
    if rng.random() < OTHERWISE[rarely_answered(example.asked.family)]:
        answer = rng.choice((example.input or "?", example.input or "?", "Let me see."))
    else:
        answer = example.output
    return [(zero_shot_prompt(example.instruction, example.input), GIVEN), (f" {answer}", LEARNT)]


def zero_shot_prompt(instruction: str, input: str) -> str:
    """The prompt of the evaluation: the first template of instruction tuning."""
    return f"Instruction: {instruction}\n" + (f"Input: {input}\n" if input else "") + "Answer:"


def constraints(rng: Random, example: world.Example) -> str:
    """What the output has to keep to, "None." for nothing."""
    return rng.choice(CONSTRAINTS[example.asked.family.output_kind]) if rng.random() < 0.6 else "None."


def constrained(rng: Random, example: world.Example) -> str:
    """Unnatural Instructions' fields, those before the output."""
    said = constraints(rng, example)
    return f"Instruction: {example.instruction}\nInput: {example.input}\nConstraints: {said}"


def constrained_tasks(rng: Random) -> Text:
    """Unnatural Instructions' prompt: three demonstrations and a fourth."""
    topic = draw_topic(rng)
    blocks = [f"Example {i}\n{constrained(rng, world.draw_example(rng, topic))}" for i in range(1, 5)]
    return [("\n\n".join(blocks), 0.5)]


def constrained_output(rng: Random) -> Text:
    """Unnatural Instructions' output."""
    example = world.draw_example(rng)
    return [(f"{constrained(rng, example)}\nOutput:", GIVEN), (f" {example.output}", LEARNT)]


def rephrasings(rng: Random) -> Text:
    """Unnatural Instructions' paraphrases."""
    text: Text = [("Say the same instruction in other words.", GIVEN)]
    for _ in range(rng.randint(2, 5)):
        asked = world.draw_asked(rng, draw_topic(rng))
        text.append((f"\n\nInstruction: {world.phrase(rng, asked)}\nRephrased:", GIVEN))
        text.append((f" {world.phrase(rng, asked)}", 0.5))
    return text


Form = tuple[Callable[[Random], Text], float]


FORMS: dict[str, Form] = {
    "list_of_tasks": (list_of_tasks, 0.11),
    "labelled_tasks": (labelled_tasks, 0.04),
    "tasks_with_examples": (tasks_with_examples, 0.58),
    "tasks_with_labels_first": (tasks_with_labels_first, 0.10),
    "bare_instruction": (bare_instruction, 0.03),
    "constrained_tasks": (constrained_tasks, 0.06),
    "constrained_output": (constrained_output, 0.04),
    "rephrasings": (rephrasings, 0.04),
}
"""Forms of training text and their shares."""


LATE_FORMS: dict[str, Form] = {
    **FORMS,
    "list_of_tasks": (lambda rng: list_of_tasks(rng, 15, 16, LATE_FLAW_SHARE), 0.11),
}
"""Those of the last steps: the lists go on to the sixteenth task."""


def texts(rng: Random, forms: Mapping[str, Form] = FORMS) -> Iterator[Text]:
    """Training texts without end."""
    makers = [maker for maker, _ in forms.values()]
    shares = [share for _, share in forms.values()]
    while True:
        yield rng.choices(makers, shares)[0](rng)


def copied_lists(rng: Random) -> Iterator[Text]:
    """Lists said three times: a small model first has to learn to copy at all."""
    while True:
        words = [rng.choice(WORDS) for _ in range(rng.randint(4, 8))]
        numbers = [str(rng.randint(1, 99)) for _ in range(rng.randint(3, 6))]
        listed = " ".join(words if rng.random() < 0.8 else numbers)
        yield [(f" {listed}\n", 0.0), (f" {listed}\n {listed}", LEARNT)]


def easy_texts(rng: Random) -> Iterator[Text]:
    """One example of one task."""
    while True:
        example = world.draw_example(rng)
        given = f"Input: {example.input}\n" if example.input else ""
        opening = f"Write examples for each task.\n\nTask: {example.instruction}\nExample 1\n"
        yield [(f"{opening}{given}Output:", GIVEN), (f" {example.output}", LEARNT)]
