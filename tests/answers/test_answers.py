"""Reading answers out of free text, and the form in which they are compared."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.answers import symbolic
from selfimprove_dagster.answers.answers import extract_answer, extract_answers, read_answer, through_answer
from selfimprove_dagster.answers.canonical import answers_agree, canonical_answer
from selfimprove_dagster.answers.languages import Conventions
from selfimprove_dagster.answers.numerals import format_number

BARE = [
    # numbers and their separators
    ("1,000", "1000"),
    ("1000.0", "1000"),
    ("$1,000.00", "1000"),
    ("1 000 000", "1000000"),
    ("1\u202f000", "1000"),
    ("1\u00a0234,50 €", "1 234,50 €"),  # space and comma together: too rare to guess at
    ("1.234,50", "1234.5"),
    ("12,34,567", "1234567"),
    ("0,5", "0, 5"),  # a list: a decimal comma needs `answers.decimal: comma`
    ("1.5000", "1.5"),
    (".5", "0.5"),
    ("-.50", "-0.5"),
    ("−7", "-7"),
    ("–7", "-7"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("+7", "7"),
    ("-0", "0"),
    ("007", "7"),
    ("18.", "18"),
    ("51.0", "51"),
    ("1e3", "1000"),
    ("2.5e-3", "0.0025"),
    ("6.02 × 10^23", "602000000000000000000000"),
    ("2 x 10⁵", "200000"),
    ("10^6", "1000000"),
    ("1.5 million", "1500000"),
    ("-1.8 billion", "-1800000000"),
    ("$5k", "5000"),
    ("١٢", "12"),
    ("１８", "18"),
    # fractions, percentages
    ("1/2", "0.5"),
    ("½", "0.5"),
    ("2½", "2.5"),
    ("2 1/2", "2.5"),
    ("-2 1/2", "-2.5"),
    ("4/6", "2/3"),
    ("3 / 4", "0.75"),
    ("25%", "25"),
    ("25 percent", "25"),
    ("33.33%", "33.33"),
    ("1/0", "1/0"),
    # printed floats
    ("0.30000000000000004", "0.3"),
    ("10.833333333333332", "65/6"),
    ("0.3333333333333333", "1/3"),
    # units and currency
    ("£3", "3"),
    ("12 km", "12"),
    ("5 dollars", "5"),
    ("USD 5", "5"),
    ("Rs. 500", "500"),
    ("72 km/h", "72"),
    ("12 cm²", "12"),
    ("12 m^2", "12"),
    ("30°", "30"),
    ("12 apples (all of them)", "12"),
    ("2 dozen", "2"),
    ("5th", "5"),
    ("about 5 miles", "5"),
    ("a total of 12 apples", "12"),
    # words
    ("forty-two", "42"),
    ("Five dollars", "5"),
    ("one hundred and five", "105"),
    ("two thousand five hundred twenty-one", "2521"),
    ("a dozen", "12"),
    ("half a dozen", "6"),
    ("half", "0.5"),
    ("two and a half hours", "2.5"),
    ("5 and a half", "5.5"),
    ("two thirds of the cake", "2/3"),
    ("three point five", "3.5"),
    ("minus five", "-5"),
    ("zero", "0"),
    # LaTeX and markdown
    ("$18$", "18"),
    (r"\(18\)", "18"),
    (r"\[ 18 \]", "18"),
    (r"$\frac{1}{3}$", "1/3"),
    (r"\dfrac12", "0.5"),
    (r"2\frac{1}{2}", "2.5"),
    (r"18 \text{ dollars}", "18"),
    (r"\$1{,}000", "1000"),
    (r"90^\circ", "90"),
    (r"25\%", "25"),
    ("**12**", "12"),
    ("`7`", "7"),
    ("x = 18", "18"),
    ("1,000 + 500 = 1,500", "1500"),
    # not one number
    ("2x", "2x"),
    ("5-6", "5-6"),
    ("3, 4", "3, 4"),
    ("(3,4)", "(3, 4)"),
    ("x = 3, y = 4", "x = 3, y = 4"),
    ("3 hours and 20 minutes", "3 hours and 20 minutes"),
    ("2**3", "2**3"),
    ("10^10^10", "10^10^10"),
    ("x = 1/3 ≈ 0.33", "1/3"),
    (r"$\begin{bmatrix} 1 \\ 3 \end{bmatrix}$", r"\begin{pmatrix}1\cr 3\end{pmatrix}"),
    (r"$x(x+3)$", "x^{2} + 3x"),
    ("x^2+3x", "x^{2} + 3x"),
    ("x**2 + 3*x", "x^{2} + 3x"),
    (r"$\{2, 1\}$", "1, 2"),
    ("$5!$", "120"),
    ("minus 5", "-5"),
    ("No. 5", "5"),
    ("J.K. Rowling", "j. k. rowling"),
    ("A, B", "A, B"),
    ("≈ 0.33", "0.33"),
    ("one of the boys", "one of the boys"),
    # options
    ("(B)", "B"),
    ("b)", "B"),
    ("B.", "B"),
    ("[C]", "C"),
    ("option D", "D"),
    ("(B) 12 apples", "B"),
    ("(A) and (B)", "A, B"),
    # truth values
    ("Yes", "yes"),
    ("No.", "no"),
    ("TRUE", "true"),
    ("Yes, they can", "yes"),
    ("no one", "no one"),
    # dates and times
    ("2021-03-05", "2021-03-05"),
    ("March 5, 2021", "2021-03-05"),
    ("5 March 2021", "2021-03-05"),
    ("Friday, the 5th of Mar. 2021", "2021-03-05"),
    ("3/5/2021", "3/5/2021"),
    ("February 30, 2021", "february 30, 2021"),
    ("5 pm", "17:00"),
    ("5:00 p.m.", "17:00"),
    ("12:30 am", "00:30"),
    ("3:30", "03:30"),
    ("3:2", "3:2"),
    # text
    ("The Eiffel Tower.", "eiffel tower"),
    ('"Tom  Brady"', "tom brady"),
    ("#### 1,234", "1234"),
    ("A: 18", "18"),
    # nothing
    ("", None),
    ("   ", None),
    ("...", None),
    ("\x00\x00", None),
    ("1e999999999", "1e999999999"),
]


@pytest.mark.parametrize(("raw", "form"), BARE)
def test_bare_answer(raw: str, form: str | None) -> None:
    assert canonical_answer(raw) == form


STATED = [
    # as the data sets and their fine-tuned models put it
    ("She sold 16 - 3 = <<16-3=13>>13 eggs.\n#### 13", "13"),
    ("It costs 80,000+50,000=$<<80000+50000=130000>>130,000\nA: 130,000", "130000"),
    ("#### 1,234", "1234"),
    # as the chain-of-thought prompts put it
    ("There are 3 cars and 2 more arrive. 3 + 2 = 5. The answer is 5.", "5"),
    ("So the final answer: 12 apples", "12"),
    ("The answer is $1,000.50 per year.", "1000.5"),
    ("The answer is 3.5.", "3.5"),
    ("Therefore, the answer is (B).", "B"),
    ("Answer: C", "C"),
    ("The answer is B. 12 apples", "B"),
    ("So the answer is A because A floats and (B) sinks.", "A"),
    ("The correct option is (D) none of these", "D"),
    ("Options 1 and 2 fail, so option D is correct.", "D"),
    ("I would choose option C.", "C"),
    ("(B) is correct.", "B"),
    ("So the answer is no.", "no"),
    ("Yes, because pears sink. So the answer is yes.", "yes"),
    ("The answer is 05/01/2021.", "05/01/2021"),
    ("So the date is five days later. The answer is March 5, 2021.", "2021-03-05"),
    ("The answer is 5 p.m. on the same day.", "17:00"),
    ("The answer is Tom Brady.", "tom brady"),
    ("The answer is two and a half hours.", "2.5"),
    ("Thus 18 is the answer.", "18"),
    ("So $18 is the final answer.", "18"),
    # as chat models put it
    (r"Thus there are $\boxed{18}$ eggs.", "18"),
    (r"The final answer is \(\boxed{\frac{1}{2}}\).", "0.5"),
    (r"\[ x = \boxed{\dfrac{3}{4} \text{ cups}} \]", "0.75"),
    (r"\boxed{\text{(C)}}", "C"),
    (r"\boxed{x = 18}", "18"),
    (r"\boxed{\text{Monday}}", "monday"),
    (r"Put it in \boxed{}. So we have $\boxed{7}$.", "7"),
    ("**Answer:** 42", "42"),
    ("**Final Answer**\n\n42 apples", "42"),
    ("### Final Answer:\n$1,200", "1200"),
    ("## Answer\n\n**18**", "18"),
    ("The answer is **12** apples, since 4 × 3 = 12.", "12"),
    ("The answer to this question is therefore x = 18.", "18"),
    ("The answer would be approximately 5 miles.", "5"),
    ("Final result: 99", "99"),
    ("The answer is 10 + 5 = 15 dollars", "15"),
    ("The answer is: \n\n17", "17"),
    ("Answer - see below.\nAnswer: −7", "-7"),
    ("Thinking done.</think>\n<answer> 18 </answer>", "18"),
    ('{"steps": ["3 + 4"], "answer": "7"}', "7"),
    ('{"answer": 1200, "unit": "km"}', "1200"),
    (r"The answer is $\frac{1}{3} \approx 0.33$.", "1/3"),
    (r"\boxed{12\,000 \text{ m/s}^2}", "12000"),
    ("The answer is -5 °C.", "-5"),
    ("The answer is thirty-five (35).", "35"),
    ("Answer: **B) 12**", "B"),
    (r"The answer is $-\frac{3}{4}$.", "-0.75"),
    (r"\boxed{10^{-3}}", "0.001"),
    (r"\boxed{\sqrt{2}}", r"\sqrt{2}"),
    ("The answer is 1, 2, and 3.", "1, 2, 3"),
    ("A: Let's think step by step. 5 + 6 = 11. The answer is 11.", "11"),
    ("A: Let's think", None),
    ("A: 18 eggs are sold daily at $2 each so she", None),
    ("Answer: 16 eggs are laid, so we", None),
    ("Answer: Tom has 5 eggs and", None),
    # several candidates, corrections, questions
    ("The answer is (B). Option (A) is wrong because iron sinks, and (C) is incorrect.", "B"),
    ("The answer is 5. They wait for the bus.", "5"),
    ("The answer is 5. Actually, I made a mistake. The answer is 6 apples and", "6"),
    ("The answer is 5. Wait, I forgot the dog. The answer is 7.", "7"),
    (r"So \boxed{5}. Hmm, that counts Tom twice; the answer is 4.", "4"),
    ("The answer is 5. Let me check: 2 + 3 = 5. Good.", "5"),
    ("The answer is 5. Wait, is it? 2 + 3 = 5, so that is correct.", "5"),
    ("The answer is 5. Wait, that is wrong. I counted", None),
    ("The answer is 5. Wait, that is wrong. So it is 2 + 2 = 4 dogs.", "4"),
    ("Is the answer 5? The answer is 6.", "6"),
    ("Is the answer: 5? I am not sure", None),
    ("If the answer is 5 then Tom has none", None),
    ("If we add them, the answer is 12.", "12"),
    ("The answer is not 5.", None),
    ("The answer is obtained by adding 3 and 4.", None),
    ("The answer is 3 * 4.", None),
    ("The third answer was 400. The answer is 900.", "900"),
    ("The answer is 8. I hope this answer is helpful.", "8"),
    ("#### 3. Add them up\n\nIt is 8.", None),
    ("The answer is", None),
    ("The answer is [number]", None),
    ("The answer is unknown.", None),
    # a base model that runs on into the next question
    ("3 + 4 = 7. The answer is 7.\n\nQ: Tom has 9 dogs.\nA: The answer is 9.", "7"),
    ("18\n\nQuestion: What is 2 + 2?\nAnswer: 4", "18"),
    ("Question: What is 2 + 2?\nAnswer: 4", "4"),
    ("Q: Pick one.\nA: 5\nB: 6\nThe answer is (B).", "B"),
    # direct answers
    ("18", "18"),
    (" $18.00 ", "18"),
    ("12 apples", "12"),
    ("(B)", "B"),
    ("Yes", "yes"),
    ("No, penguins cannot fly. They swim.", "no"),
    ("March 5, 2021", "2021-03-05"),
    # conclusions without a statement
    ("She had 5 and bought 3.\nSo she has 5 + 3 = <<5+3=8>>8 eggs", "8"),
    ("She had 5. So in total she has $12.50 left.", "12.5"),
    ("Therefore each of them gets 12 / 4 = 3 apples for each of the 4 days.", "3"),
    ("So she has 12 apples and 4 friends.", None),
    ("So it is not 5.", None),
    # cut off, or nothing said
    ("First we add 5 + 3 = 8. Then we", None),
    ("For the thirteenth glass Kylar needs to pay 5 * 1", None),
    ("So the price will be $41.472+$8.2944 = $<<41.472+8.", None),
    ("After 14 days: 32768 feet * 2 =", None),
    ("So she pays 5 + 3 = 1", None),
    (r"So we get \boxed{1", None),
    ("I do not know.", None),
    ("", None),
    ("\n\n", None),
    ("The answer is \x0018\x00.", "18"),
    ("The answer is １８.", "18"),
    ("The answer\u00a0is\u200b 18.", "18"),
]


@pytest.mark.parametrize(("text", "answer"), STATED)
def test_stated_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


THOUGHTS = [
    ("<think>Maybe the answer is 12. Let me check", None),
    ("<think>Maybe the answer is 12.</think><think>Or not: the answer is 13.", None),
    ("<thinking>The answer is 12.", None),
    ("<reasoning>\nThe answer is 12.\n</reasoning>\n<answer>\n18\n</answer>", "18"),
    ("[THINK]The answer is 12.[/THINK]The answer is 18.", "18"),
    ("◁think▷The answer is 12.◁/think▷**18**", "18"),
    ("<|channel|>analysis<|message|>The answer is 12.<|end|><|start|>assistant"
     "<|channel|>final<|message|>18<|return|>", "18"),
    ("<|channel|>analysis<|message|>The answer is 12.", None),
    ("So the answer is 12.\n</think>\n\n**18**", "18"),
    ("<think>The answer is 12.</think>\nI cannot tell.", None),
    ("<think>" + "It is hard. " * 3000 + "The answer is 12.", None),
    ("<think>" + "It is hard. " * 3000 + "</think>The answer is 12.", "12"),
]  # fmt: skip


FORMULAS = [
    ("The answer is:\n$$12$$", "12"),
    ("The answer is:\n$$\n12\n$$", "12"),
    ("The answer is:\n\\[\n12\n\\]", "12"),
    ("The answer is: \\(12\\)", "12"),
    ("$$x = 12$$ so the answer is $$12$$.", "12"),
    ("The answer is:\n\n```\n12\n```", "12"),
    (r"\boxed{(x, y)}", "(x, y)"),
    (r"\boxed{(x, z)}", "(x, z)"),
    (r"\boxed{(5, 2)}", "(5, 2)"),
    (r"\boxed{[2, \infty)}", r"[2, \infty)"),
    (r"\boxed{\left[2,\infty\right)}", r"[2, \infty)"),
    (r"The answer is $x \in [2, \infty)$.", r"[2, \infty)"),
    (r"The answer is $[2, \infty)$, since x is at least 2.", r"[2, \infty)"),
    (r"\boxed{(3,\infty) \cup (-\infty, 2)}", r"(-\infty, 2) \cup (3, \infty)"),
    (r"\boxed{3+4i}", "3 + 4i"),
    (r"\boxed{4i + 3}", "3 + 4i"),
    (r"\boxed{(1+i)^2}", "2i"),
    (r"\boxed{x^2+3x}", "x^{2} + 3x"),
    (r"\boxed{x(x+3)}", "x^{2} + 3x"),
    (r"The answer is $f(x) = x^2 + 3x$.", "x^{2} + 3x"),
    (r"\boxed{\left(1, 2\right)}", "(1, 2)"),
    (r"\boxed{(1,2)}", "(1, 2)"),
    (r"\boxed{2\sqrt{3}}", r"2\sqrt{3}"),
    (r"\boxed{2 \sqrt{3}}", r"2\sqrt{3}"),
    (r"\boxed{\sqrt{12}}", r"2\sqrt{3}"),
    (r"\boxed{2√3}", r"2\sqrt{3}"),
    (r"\boxed{\frac{1}{\sqrt 2}}", r"\frac{\sqrt{2}}{2}"),
    (r"\boxed{\frac{x+1}{2}}", r"\frac{x}{2} + \frac{1}{2}"),
    (r"\boxed{\dfrac{1}{2}x}", r"\frac{x}{2}"),
    (r"\boxed{0.5x}", r"\frac{x}{2}"),
    (r"\boxed{2a}", "2a"),
    (r"\boxed{2xy}", "2x y"),
    (r"\boxed{\frac{\pi}{4}}", r"\frac{\pi}{4}"),
    (r"\boxed{\log_2 8}", "3"),
    (r"\boxed{3 \cdot 4}", "12"),
    (r"\boxed{5-6}", "5-6"),
    (r"\boxed{y = 2x + 3}", "2x + 3"),
    (r"\boxed{4 = 3x - 2y}", "3x - 2y - 4 = 0"),
    (r"\boxed{6x - 4y = 8}", "3x - 2y - 4 = 0"),
    (r"\boxed{x > 5}", "x > 5"),
    (r"\boxed{5 < x}", "x > 5"),
    (r"\boxed{\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}}", r"\begin{pmatrix}1 & 2\cr 3 & 4\end{pmatrix}"),
    (r"\boxed{\begin{bmatrix} 1 \\ 3 \end{bmatrix}}", r"\begin{pmatrix}1\cr 3\end{pmatrix}"),
    (r"\boxed{1,2}", "1, 2"),
    (r"\boxed{2, 1}", "1, 2"),
    (r"\boxed{\{2, 1\}}", "1, 2"),
    (r"\boxed{x = 1 \text{ or } x = 2}", "1, 2"),
    (r"\boxed{x = 1, 2}", "1, 2"),
    (r"\boxed{x = 1, y = 2}", "x = 1, y = 2"),
    (r"\boxed{\pm 3}", "-3, 3"),
    (r"\boxed{1 \pm \sqrt{2}}", r"1 + \sqrt{2}, 1 - \sqrt{2}"),
    (r"\boxed{5!}", "120"),
    ("The answer is $5!$.", "120"),
    ("The answer is 5!", "5"),
    (r"\boxed{\frac{5!}{2}}", "60"),
    (r"\boxed{n!}", "n!{}"),
    (r"\fbox{7}", "7"),
    (r"\framebox{7}", "7"),
    (r"\boxed 7", "7"),
    (r"\boxed\frac{1}{2}", "0.5"),
    (r"I put it in \boxed and so on.", None),
    (r"\boxed{\boxed{7}}", "7"),
    (r"\boxed{\text{the name}}", "name"),
    (r"\boxed{\text{Not enough information}}", None),
    ("The answer is H2O.", "h2o"),
    ("The answer is A+.", "a+"),
    ("The answer is n/a.", None),
]


ABBREVIATIONS = [
    ("The answer is Rs. 500.", "500"),
    ("The answer is Rs. 700", "700"),
    ("The answer is rs. 700 per day", "700"),
    ("The answer is approx. 5 miles.", "5"),
    ("The answer is Approx. 5 miles.", "5"),
    ("The answer is Dr. Smith.", "dr smith"),
    ("The answer is Dr. Jones.", "dr jones"),
    ("The answer is Dr Jones.", "dr jones"),
    ("The answer is Mrs. Jones. She is old.", "mrs jones"),
    ("The answer is St. Louis.", "st louis"),
    ("The answer is Main St. She lives there.", "main st"),
    ("The answer is No. 5.", "5"),
    ("The answer is No. 7", "7"),
    ("The answer is no. Five people cannot fit.", "no"),
    ("The answer is No. They cannot.", "no"),
    ("The answer is J. K. Rowling.", "j. k. rowling"),
    ("The answer is J.K. Rowling.", "j. k. rowling"),
    ("The answer is J. Smith.", "j. smith"),
    ("The answer is A. A. Milne.", "a. a. milne"),
    ("The answer is B. Apples.", "B"),
    ("The answer is (A) and (B).", "A, B"),
    ("The answer is (B) and (A).", "A, B"),
    ("The answer is A and B.", "A, B"),
    ("The answer is A, B and C.", "A, B, C"),
    ("Answer: (A), (C)", "A, C"),
    (r"\boxed{\text{(A) and (B)}}", "A, B"),
    ("The answer is (A) or (B).", "A, B"),
]


SIGNS = [
    ("The answer is minus 5.", "-5"),
    ("The answer is negative $5.", "-5"),
    ("The answer is minus 1/2.", "-0.5"),
    ("The answer is minus five.", "-5"),
    ("The answer is $-$18", "-18"),
    ("$-$18", "-18"),
    ("The answer is $-$$18$.", "-18"),
    ("18<|im_end|>", "18"),
    ("The answer is 18<|eot_id|>", "18"),
    ("The answer is 18.</s>", "18"),
    ("18<end_of_turn>\n<start_of_turn>user\nThe answer is 5.", "18"),
    ("<|im_start|>assistant\n18<|im_end|>\n<|im_start|>user\nThe answer is 5.", "18"),
    ("Total: $18", "18"),
    ("She pays 9 + 9.\nTotal cost: $18", "18"),
    ("Total = 18 dollars", "18"),
    ("Grand total: 18.", "18"),
    ("Total: $18\nThen she leaves", None),
    ("Tom: 5\nAnn: 7", None),
]


LANGUAGES = [
    ("Die Antwort ist 12.", "12"),
    ("Die Antwort lautet: **12 Äpfel**.", "12"),
    ("Also 3 + 4.\nAntwort: 7", "7"),
    ("Die Antwort ist nicht 12.", None),
    ("Die Antwort ist ja.", "yes"),
    ("Ja, das geht.", "yes"),
    ("La réponse est 12.", "12"),
    ("Réponse : 12", "12"),
    ("La respuesta es sí.", "yes"),
    ("A resposta é 12.", "12"),
    ("Ответ: 12", "12"),
    ("答案是12。", "12"),
    ("答案：１２", "12"),
    ("答えは12です。", "12"),
    ("정답은 12입니다.", "12"),
    ("الجواب هو ١٢", "12"),
    ("उत्तर: १२", "12"),
    ("Đáp án là 12.", "12"),
    ("Câu trả lời là $x^2$.", "x^{2}"),
]


RUNS_ON = [
    ("The answer is 7.\nQ: Bob has 4 pens? He has 4.", "7", "The answer is 7."),
    ("The answer is 7.\n\nQuestion 2: Bob has 4 pens. Answer: 4", "7", "The answer is 7."),
    ("3 + 4 = 7. The answer is 7.\nProblem: 2 + 2\nThe answer is 4.", "7", "3 + 4 = 7. The answer is 7."),
    ("The answer is 7.<|im_end|>\n<|im_start|>user\nThe answer is 4.", "7", "The answer is 7."),
    ("<think>Is it 5?</think>The answer is 7. Bye.", "7", "<think>Is it 5?</think>The answer is 7."),
]


@pytest.mark.parametrize(
    ("text", "answer"),
    [*THOUGHTS, *FORMULAS, *ABBREVIATIONS, *SIGNS, *LANGUAGES],
    ids=lambda one: str(one)[:40],
)
def test_what_models_write_is_read_right(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer
    assert answer is None or canonical_answer(answer) == answer
    kept = through_answer(text)
    assert extract_answer(kept) == answer


@pytest.mark.parametrize(("text", "answer", "kept"), RUNS_ON)
def test_a_text_that_runs_on_is_cut_there(text: str, answer: str, kept: str) -> None:
    assert extract_answer(text) == answer
    assert through_answer(text) == kept


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("The answer is 5.", "statement: number"),
        (r"So \boxed{5}", "box: number"),
        (r"So \boxed{\sqrt{12}}", "box: expression"),
        ("So 3 + 4 = 7 pens.", "conclusion: number"),
        ("(B)", "direct answer: option"),
        ("The answer is Tom.", "statement: text"),
        ("No, they sink.", "direct answer: truth value"),
        ("The answer is 3 and 4.", "statement: list"),
    ],
)
def test_a_reading_names_the_rule_that_decided(text: str, rule: str) -> None:
    reading = read_answer(text)
    assert reading is not None and reading.rule == rule


def test_conventions_of_an_experiment_extend_the_tables() -> None:
    comma = Conventions(decimal="comma")
    assert extract_answer(r"\boxed{1,2}", comma) == "1.2"
    assert extract_answer("The answer is 1.234,5 km.", comma) == "1234.5"
    assert extract_answer("The answer is 1.234.", comma) == "1234"
    assert extract_answer("The answer is 3.5.", comma) == "3.5"
    assert extract_answer("The answer is 1; 2.", comma) == "1, 2"
    assert canonical_answer("0,5", comma) == "0.5"
    estonian = Conventions(phrases=("vastus on", "Vastus:"), words=(("jah", "yes"), ("kaksteist", "12")))
    assert extract_answer("Vastus on kaksteist.", estonian) == "12"
    assert extract_answer("Arvutame.\nVASTUS: jah", estonian) == "yes"
    assert extract_answer("Vastus on 5.") is None
    marks = Conventions(thoughts=(("<muse>", "</muse>"),))
    assert extract_answer("<muse>The answer is 12.</muse>The answer is 5.", marks) == "5"
    assert extract_answer("<muse>The answer is 12.", marks) is None


def test_an_expression_that_would_take_forever_has_no_symbolic_form(monkeypatch: pytest.MonkeyPatch) -> None:
    for tower in (r"\boxed{9^{9^{9^{9}}}}", r"\boxed{x^{10^{10}}}", r"\boxed{(10^9)!}"):
        began = time.perf_counter()
        reading = read_answer(tower)
        assert reading is None or reading.rule == "box: text"
        assert time.perf_counter() - began < 20
    monkeypatch.setattr(symbolic, "TIME_LIMIT", 0.0)
    reading = read_answer(r"\boxed{\sqrt{2} + 7y}")
    assert reading is not None and reading.rule == "box: text"
    monkeypatch.undo()
    assert extract_answer(r"\boxed{\sqrt{2} + 7z}") == r"7z + \sqrt{2}"  # another process has been started


def test_expressions_are_read_in_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        texts = [rf"\boxed{{{number}x + \sqrt{{{number}}}}}" for number in (2, 3, 5, 7)] * 2
        answers = [*pool.map(extract_answer, texts)]
    assert answers[:4] == answers[4:] and len({*answers}) == 4


def test_forms_are_equal_where_math_verify_finds_answers_equal() -> None:
    from math_verify import parse, verify

    written = [r"2\sqrt{3}", r"\sqrt{12}", "x^2+3x", "x(x+3)", r"\frac{1}{2}", "0.5", "(1,2)", r"\left(1, 2\right)",
               r"[2, \infty)", r"(2, \infty)", "3+4i", "4i+3", "3-4i"]  # fmt: skip
    parsed = {one: parse(f"${one}$", parsing_timeout=None) for one in written}
    for left, right in itertools.combinations(written, 2):
        same = verify(parsed[left], parsed[right], timeout_seconds=None)
        assert answers_agree(f"${left}$", f"${right}$") == same, (left, right)


def test_agreement_is_of_forms_and_none_agrees_with_nothing() -> None:
    assert answers_agree("1,000", "$1000.00")
    assert answers_agree("0.5", "1/2")
    assert not answers_agree("B", "C")
    assert not answers_agree(None, "5")
    assert not answers_agree(None, None)
    assert not answers_agree("", "")


def test_agrees_with_the_verdicts_on_2400_solutions_of_four_models(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "gsm8k/model_solutions.jsonl").open()]
    verdicts = [
        (extract_answer(row["ground_truth"]), solution["solution"], solution["is_correct"])
        for row in rows
        for solution in row.values()
        if isinstance(solution, dict)
    ]
    assert len(verdicts) == 2400
    assert all(truth is not None for truth, _, _ in verdicts)
    wrong = [text for truth, text, right in verdicts if answers_agree(extract_answer(text), truth) != right]
    assert wrong == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_reads_every_gsm8k_ground_truth(shared_data: Path, split: str) -> None:
    for line in (shared_data / f"gsm8k/{split}.jsonl").open():
        text = json.loads(line)["answer"]
        stated = text.rsplit("#### ", 1)[1]
        assert extract_answer(text) == canonical_answer(stated) == stated.replace(",", ""), text


def test_a_conclusion_without_a_statement_is_nearly_always_the_ground_truth(shared_data: Path) -> None:
    right = read = total = 0
    for line in (shared_data / "gsm8k/train.jsonl").open():
        solution, truth = json.loads(line)["answer"].split("\n#### ")
        answer = extract_answer(solution + "\n")
        total += 1
        read += answer is not None
        right += answers_agree(answer, truth)
    assert read / total > 0.9
    assert right / read > 0.99


def test_reads_every_svamp_ground_truth(shared_data: Path) -> None:
    for problem in json.loads((shared_data / "svamp/SVAMP.json").read_text()):
        assert canonical_answer(str(problem["Answer"])) == str(int(problem["Answer"]))


def test_a_column_is_read_as_its_texts_are() -> None:
    texts = pl.Series("text", ["The answer is 5.", None, "no idea", "The answer is 5."])
    answers = extract_answers(texts)
    assert answers.to_list() == ["5", None, None, "5"]
    assert answers.dtype == pl.String
    assert answers.name == "text"
    assert extract_answers(pl.Series("text", [], dtype=pl.String)).to_list() == []
    assert extract_answers(pl.Series("text", [None])).to_list() == [None]
    with pytest.raises(TypeError, match="needs a string column"):
        extract_answers(pl.Series("text", [1]))


# --- any input ---

numbers = st.one_of(
    st.integers(-(10**12), 10**12).map(Fraction),
    st.builds(lambda n, places: Fraction(n, 10**places), st.integers(-(10**9), 10**9), st.integers(0, 6)),
)
characters = [*"0123456789.,-+/$%()=^*\\{}<># \n:;'\"eEaAbBxX\x00½²−"]
pieces = [*characters, "answer is ", "\\boxed{", "\\frac", "one ", "pm"]
noise = st.lists(st.sampled_from(pieces), max_size=40).map("".join)


@given(st.one_of(st.text(max_size=80), noise, st.sampled_from([raw for raw, _ in BARE])))
def test_canonical_form_is_a_fixed_point(raw: str) -> None:
    form = canonical_answer(raw)
    assert form is None or canonical_answer(form) == form


@given(st.one_of(st.text(max_size=200), noise))
def test_what_is_read_is_canonical(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or canonical_answer(answer) == answer


@given(numbers, st.data())
def test_formats_of_one_number_agree(value: Fraction, data: st.DataObject) -> None:
    form = format_number(value)
    assert form is not None
    assert Fraction(form) == value
    sign, size = ("-", -value) if value < 0 else ("", value)
    plain = format_number(size)
    assert plain is not None
    whole, _, places = plain.partition(".")
    grouped = f"{int(whole):,}" + (f".{places}" if places else "")
    padded = f"{grouped}.00" if not places else f"{grouped}0"
    variant = data.draw(
        st.sampled_from(
            [
                f"{sign}{grouped}",
                f"{sign}{padded}",
                f"{sign}${grouped}",
                f"{sign}{plain} apples",
                f"{sign.replace('-', '−')}{plain}",
                f"**{sign}{plain}**",
                f"$x = {sign}{plain}$",
                f"{sign}{plain}e0",
                f"{value.numerator}/{value.denominator}",
            ]
        )
    )
    assert canonical_answer(variant) == form
    assert extract_answer(f"So we add them. The answer is {variant}.") == form
    assert extract_answer(rf"Thus \boxed{{{variant}}} follows") == form


HOSTILE = [
    "9" * 1_000_000,
    "The answer is " + "9" * 1_000_000,
    "The answer is " + "1," * 500_000,
    "answer " * 100_000,
    "answer is " * 100_000,
    "answer: a: #### " * 60_000,
    "\\boxed{" * 100_000,
    "\\boxed{" + "{" * 500_000,
    "\\frac{" * 100_000,
    "\nQ: " * 200_000 + "The answer is 5.",
    "<<" * 500_000,
    "=" * 1_000_000,
    " " * 1_000_000,
    "\n" * 1_000_000,
    "if " * 300_000 + "the answer is 5?",
    "a" * 1_000_000 + " is the answer",
    "(" * 1_000_000,
    "ﷺ" * 100_000,
    "1/" * 400_000,
    "one " * 200_000,
    "the " * 200_000,
    "$" * 1_000_000,
    "*" * 999_999,
]


@pytest.mark.parametrize("text", HOSTILE, ids=[f"{text[:12]!r}" for text in HOSTILE])
def test_hostile_text_takes_bounded_time(text: str) -> None:
    began = time.perf_counter()
    extract_answer(text)
    canonical_answer(text)
    canonical_answer(text[:400])
    extract_answer(text[:16_000])
    # Milliseconds on an idle machine; the bound only has to tell linear from quadratic.
    assert time.perf_counter() - began < 3


@pytest.mark.parametrize("raw", ["1e999999999", "10^10^10", "10^999", "1e101", "9" * 121, "1/" + "3" * 61])
def test_a_number_too_large_to_write_is_not_expanded(raw: str) -> None:
    form = canonical_answer(raw)
    assert form is None or form == raw
    assert extract_answer(f"The answer is {raw}") is None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("So 4 + 5 = 9. The answer is 9. I hope this helps!", "So 4 + 5 = 9. The answer is 9."),
        ("4 + 5 = 9.\nThe answer is 9.\nQ: 2 + 2?\nA: 4. The answer is 4.", "4 + 5 = 9.\nThe answer is 9."),
        (
            "The answer is 5. Wait, that is wrong. 4 + 5 = 9. The answer is 9. Bye.",
            "The answer is 5. Wait, that is wrong. 4 + 5 = 9. The answer is 9.",
        ),
        ("\\[\n\\boxed{9}\n\\]\nI hope it helps. Bye", "\\[\n\\boxed{9}\n\\]"),
        ("**The answer is 9.** Great!", "**The answer is 9.**"),
        ("The answer is 9, since 4 + 5 = 9. Also, he", "The answer is 9, since 4 + 5 = 9."),
        ("The answer is $9.50. Then he goes.", "The answer is $9.50."),
        ("#### 9\nnext line", "#### 9"),
        ("Answer:\n9\nThanks", "Answer:\n9"),
        ("4 + 5 = 9 pens. So she has 9 pens = 9.\nQ: a?", "4 + 5 = 9 pens. So she has 9 pens = 9."),
        ("She has 9 = 9 now. Then 4 + 5 = 9.", "She has 9 = 9 now. Then 4 + 5 = 9."),
        ("The answer is 9", "The answer is 9"),
        ("No idea. None at all.", "No idea. None at all."),
        ("", ""),
    ],
)
def test_a_text_is_cut_where_the_reader_stops(text: str, kept: str) -> None:
    assert through_answer(text) == kept
    assert extract_answer(kept) == extract_answer(text)


_PIECES = (
    *("The answer is 9.", "The answer is 5.", "Wait, that is wrong.", "That is correct.", "\nQ: 1 + 1?\nA:"),
    *(
        " 4 + 5 = 9.",
        " So she has 9 pens.",
        " ",
        "\n",
        " Bye.",
        "\\boxed{9}",
        "#### 5\n",
        "**",
        " (B) is correct",
    ),
)


@given(st.lists(st.sampled_from(_PIECES), max_size=8).map("".join))
def test_a_cut_keeps_the_answer_and_is_final(text: str) -> None:
    cut = through_answer(text)
    assert text.startswith(cut)
    assert extract_answer(cut) == extract_answer(text)
    assert through_answer(cut) == cut
