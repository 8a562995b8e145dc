"""What language models write after a generation prompt, and the tasks that must come out of it.

The prompt ended in `9.` unless a completion says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Messy:
    """A completion, why it ended, and the tasks in it."""

    what: str
    text: str
    tasks: tuple[str, ...]
    finish_reason: str = "stop"
    first_number: int = 9


MESSY_COMPLETIONS = (
    Messy(
        "as it should be",
        " Name two uses of a paper clip.\n10. Shorten the paragraph.\n11. Guess the profession.\n",
        ("Name two uses of a paper clip.", "Shorten the paragraph.", "Guess the profession."),
    ),
    Messy(
        "cut off in its last task",
        " Name two uses of a paper clip.\n10. Shorten the paragraph.\n11. Guess the prof",
        ("Name two uses of a paper clip.", "Shorten the paragraph."),
        "length",
    ),
    Messy(
        "cut off after a number",
        " Name two uses of a paper clip.\n10. Shorten the paragraph.\n11.",
        ("Name two uses of a paper clip.", "Shorten the paragraph."),
        "length",
    ),
    Messy(
        "cut off inside a number",
        " Name two uses of a paper clip.\n10. Shorten the paragraph.\n1",
        ("Name two uses of a paper clip.", "Shorten the paragraph."),
        "length",
    ),
    Messy(
        "the stop string is still there",
        " Sort the towns by size.\n10. Draft a toast for a wedding.\n16.",
        ("Sort the towns by size.", "Draft a toast for a wedding."),
    ),
    Messy(
        "cut off in its only task",
        " Compare the two phones and",
        (),
        "length",
    ),
    Messy("nothing at all", "", ()),
    Messy("white space only", " \n\n  \n", (), "length"),
    Messy(
        "it starts again at 1",
        " Pick the odd one out.\n1. Write a haiku about rust.\n2. Spell the number in words.\n"
        "3. Give a synonym.",
        (
            "Pick the odd one out.",
            "Write a haiku about rust.",
            "Spell the number in words.",
            "Give a synonym.",
        ),
    ),
    Messy(
        "it repeats the number of the prompt",
        " 9. Pick the odd one out.\n10. Write a haiku about rust.",
        ("Pick the odd one out.", "Write a haiku about rust."),
    ),
    Messy(
        "every task is number 9",
        " Pick the odd one out.\n9. Write a haiku about rust.\n9. Spell the number in words.\n"
        "9. Give a synonym.",
        (
            "Pick the odd one out.",
            "Write a haiku about rust.",
            "Spell the number in words.",
            "Give a synonym.",
        ),
    ),
    Messy(
        "it skips and goes back",
        " Pick the odd one out.\n12. Write a haiku about rust.\n11. Spell the number in words.\n"
        "14. Give a synonym.",
        (
            "Pick the odd one out.",
            "Write a haiku about rust.",
            "Spell the number in words.",
            "Give a synonym.",
        ),
    ),
    Messy(
        "bullets instead of numbers",
        " Find the capital.\n- Round the price up.\n* Reverse the letters.\n• Count the vowels.\n",
        ("Find the capital.", "Round the price up.", "Reverse the letters.", "Count the vowels."),
    ),
    Messy(
        "bullets below bullets",
        "- Find the capital.\n- Round the price\n  - to tens\n  - to hundreds\n- Reverse the letters.",
        ("Find the capital.", "Round the price\n  - to tens\n  - to hundreds", "Reverse the letters."),
    ),
    Messy(
        "bold words inside tasks",
        " **Sort** the towns.\n10. Say **it**\n11. **Sort** the **towns**",
        ("**Sort** the towns.", "Say **it**", "**Sort** the **towns**"),
    ),
    Messy(
        "bullets inside a numbered task",
        " Write an advert that names\n- the price\n- the colour\n10. Find the capital.",
        ("Write an advert that names\n- the price\n- the colour", "Find the capital."),
    ),
    Messy(
        "bullets that a colon announces",
        " Choose the better gift and say why:\n- a book\n- a plant",
        ("Choose the better gift and say why:\n- a book\n- a plant",),
    ),
    Messy(
        "Task 9:, Task #10: and Task 11 on a line of its own",
        " Task 9: Find the capital.\nTask #10: Round the price up.\n\nTask 11\nReverse the letters.",
        ("Find the capital.", "Round the price up.", "Reverse the letters."),
    ),
    Messy(
        "labels after the numbers",
        " Task: Find the capital.\n10. Instruction: Round the price up.\n11. **Task:** Reverse the letters.",
        ("Find the capital.", "Round the price up.", "Reverse the letters."),
    ),
    Messy(
        "Markdown",
        " Find the capital.\n**10.** Round the price up.\n**11. Reverse the letters.**\n"
        "### 12. Count the vowels.\n"
        "- 13. **Close the letter politely.**\n14\\. Give a synonym.",
        (
            "Find the capital.",
            "Round the price up.",
            "Reverse the letters.",
            "Count the vowels.",
            "Close the letter politely.",
            "Give a synonym.",
        ),
    ),
    Messy(
        "brackets, colons and no spaces",
        " Find the capital.\n10) Round the price up.\n(11) Reverse the letters.\n12: Count the vowels.\n"
        "13.Give a synonym.\n#14 . Name a tool.",
        (
            "Find the capital.",
            "Round the price up.",
            "Reverse the letters.",
            "Count the vowels.",
            "Give a synonym.",
            "Name a tool.",
        ),
    ),
    Messy(
        "blank tasks",
        "\n10.\n11. Find the capital.\n12. \n13.   \n14. Count the vowels.\n15.",
        ("Find the capital.", "Count the vowels."),
    ),
    Messy(
        "blank lines between the tasks, carriage returns, tabs",
        " Find the capital.\r\n\r\n10.\tRound the price up.\r\n\r\n\r\n 11. Reverse the letters.\r\n",
        ("Find the capital.", "Round the price up.", "Reverse the letters."),
    ),
    Messy(
        "German and French",
        " Übersetze den Satz ins Dänische.\nAufgabe 10: Nenne drei Flüsse.\nTâche 11 : Écris une devinette.",
        ("Übersetze den Satz ins Dänische.", "Nenne drei Flüsse.", "Écris une devinette."),
    ),
    Messy(
        "Chinese, Japanese, Arabic and full-width numbers",
        " 写一首关于春天的诗。\n10、把句子翻译成英文。\n１１．短い手紙を書いてください。\n"
        "١٢. اكتب قصة قصيرة.\n任务13：列出三种水果。",
        (
            "写一首关于春天的诗。",
            "把句子翻译成英文。",
            "短い手紙を書いてください。",
            "اكتب قصة قصيرة.",
            "列出三种水果。",
        ),
    ),
    Messy(
        "numbered lines in a block of code",
        " Say what this program prints.\n```\n10 PRINT 1\n20. GOTO 10\n11. END\n```\n10. Round the price up.",
        ("Say what this program prints.\n```\n10 PRINT 1\n20. GOTO 10\n11. END\n```", "Round the price up."),
    ),
    Messy(
        "a block of code that is never closed",
        " Say what this prints.\n```\nprint(3)\n10. Round the price up.\n11. Reverse the letters.",
        ("Say what this prints.\n```\nprint(3)", "Round the price up.", "Reverse the letters."),
    ),
    Messy(
        "cut off in a block of code",
        " Round the price up.\n10. Say what this prints.\n```\n1. LET A\n2. LET B",
        ("Round the price up.",),
        "length",
    ),
    Messy(
        "instructions of several lines",
        " Write a letter to a neighbour.\nMention the noise.\nStay friendly.\n10. Read the poem\n"
        "and name its metre.",
        (
            "Write a letter to a neighbour.\nMention the noise.\nStay friendly.",
            "Read the poem\nand name its metre.",
        ),
    ),
    Messy(
        "an instruction of two paragraphs amid the list",
        " Mark the verbs.\n\nFor example: He *runs* home.\n10. Round the price up.",
        ("Mark the verbs.\n\nFor example: He *runs* home.", "Round the price up."),
    ),
    Messy(
        "numbered steps inside a task, after a colon",
        " Bring the steps into order:\n1. Pour the tea.\n2. Boil the water.\n3. Warm the pot.\n"
        "10. Name a tool.",
        (
            "Bring the steps into order:\n1. Pour the tea.\n2. Boil the water.\n3. Warm the pot.",
            "Name a tool.",
        ),
    ),
    Messy(
        "numbered steps further in than the list",
        " Name a tool.\n10. Judge the plan\n   1. Rent a van.\n   2. Drive at night.\n11. Find the capital.",
        ("Name a tool.", "Judge the plan\n   1. Rent a van.\n   2. Drive at night.", "Find the capital."),
    ),
    Messy(
        "a list that is set in, each task more than the one before",
        " Name a tool.\n   10. Judge the plan.\n      11. Find the capital.\n         12. Give a synonym.",
        ("Name a tool.", "Judge the plan.", "Find the capital.", "Give a synonym."),
    ),
    Messy(
        "all on one line",
        ' Name a tool. 10. Judge the plan. 11. Is it "late"? 12. Say who won the war of 1914. 13 men',
        (
            "Name a tool.",
            "Judge the plan.",
            'Is it "late"?',
            "Say who won the war of 1914. 13 men",
        ),
    ),
    Messy(
        "numbers that number nothing",
        " Add 12.\n10. Tell what happened in\n1945. Be brief.\n11. Is 10.5 more than\n10.25?\n"
        "12. It is now\n10:30. How late is"
        " it in Rome?",
        (
            "Add 12.",
            "Tell what happened in\n1945. Be brief.",
            "Is 10.5 more than\n10.25?",
            "It is now\n10:30. How late is it in Rome?",
        ),
    ),
    Messy(
        "inputs and outputs that were not asked for",
        " Translate into Danish.\nInput: Good morning\nOutput: Godmorgen\n10. Name the sum.\n"
        "Input: 3 and 4\n11. Greet the guest.",
        ("Translate into Danish.", "Name the sum.", "Greet the guest."),
    ),
    Messy(
        "cut off in an output, after the instruction",
        " Translate into Danish.\n10. Name the sum.\nInput: 3 and 4\nOutput: the sum of thr",
        ("Translate into Danish.", "Name the sum."),
        "length",
    ),
    Messy(
        "talk before the list",
        "Sure! Here are more tasks:\n\n9. Name a tool.\n10. Judge the plan.",
        ("Name a tool.", "Judge the plan."),
    ),
    Messy(
        "talk before a list that starts at 1",
        " Here are some more tasks:\n1. Name a tool.\n2. Judge the plan.",
        ("Name a tool.", "Judge the plan."),
    ),
    Messy(
        "talk after the list",
        " Name a tool.\n10. Judge the plan.\n\nI hope that these are of use! Shall I go on?",
        ("Name a tool.", "Judge the plan."),
    ),
    Messy(
        "the prompt all over again",
        " Name a tool.\n\nHere is a series of tasks.\n\n1. Judge the plan.\n2. Find the capital.",
        ("Name a tool.", "Judge the plan.", "Find the capital."),
    ),
    Messy(
        "quotes around tasks, quotes inside tasks",
        ' "Name a tool."\n10. “Judge the plan.”\n11. "Late" is the opposite of "what"\n12. Spell "knee".',
        ("Name a tool.", "Judge the plan.", '"Late" is the opposite of "what"', 'Spell "knee".'),
    ),
    Messy(
        "a task that opens with Here",
        " Here is a list of towns. Sort it.\n10. Here are two plans; judge them:\n"
        "11. Sure or unsure? Label the reply.",
        (
            "Here is a list of towns. Sort it.",
            "Here are two plans; judge them:",
            "Sure or unsure? Label the reply.",
        ),
    ),
    Messy(
        "after a prompt of two demonstrations",
        " Name a tool.\n4. Judge the plan.\n5. Find the capital.",
        ("Name a tool.", "Judge the plan.", "Find the capital."),
        first_number=3,
    ),
)
