"""Where an answer stands: forms that models write, for each way of reading, and text made to be slow."""

import time

import pytest

from pipeline.answers import extract, forms, looks, numbers
from pipeline.answers.compare import comparable, same
from pipeline.tasks import gsm8k

LAST_NUMBER = [
    ("so 5-4", "4"),
    ("4 - 5", "5"),
    ("= -13.", "-13"),
    ("total $1,200.", "1200"),
    ("x=-$5", "-5"),
    ("it is 3/4", "3/4"),
    ("(3)", "3"),
    ("50% off", "50"),
    ("none", None),
    ("", None),
    ("It is .75", ".75"),
    ("changes by -.2", "-.2"),
    ("earns $7{,}500.", "7500"),
    (r"\frac{3}{4}", r"\frac{3}{4}"),
    (r"The share is $\frac{3}{4}$.", r"\frac{3}{4}"),
    ("In total $2^{10}$ ways.", "2^{10}"),
    (r"The rate is $8.1 \times 10^{-3}$ per second.", r"8.1 \times 10^{-3}"),
    ("About 7.2 × 10^4 in all.", r"7.2 \times 10^4"),
    (r"so $2\sqrt{13}$.", r"2\sqrt{13}"),
    ("so 5√3", r"5\sqrt{3}"),
    (r"18\,250", "18250"),
    ("18\u00a0250", "18250"),
    ("a–5", "5"),
    ("is –5", "-5"),
    ("area 90 m^2", "90"),
    ("area 90 m²", "90"),
    ("about 5 million people", "5 million"),
    ("3 1/2 cups", "3 1/2"),
    ("3½ cups", r"3\frac{1}{2}"),
    (r"v = $3.1\,\mathrm{m\,s^{-1}}$", "3.1"),
    ("AZYUK2A", None),
    ("x_1 = 7", "7"),
    ("x_{12}", None),
    ("$x_1 = 3$ and $x_2$", "3"),
    ("2 to 3", "3"),
    ("$5 and $6", "6"),
    ("He has $5, she $6.50.", "6.50"),
    ("1,000,000 dollars", "1000000"),
    ("is 1.5e-3", "1.5e-3"),
    ("2.65 × 10⁻⁹ m", r"2.65 \times 10^{-9}"),
    ("10⁻³", "10^{-3}"),
    (r"\(\frac{14}{3}\)", r"\frac{14}{3}"),
    (r"it is $-\frac{1}{2}$", r"-\frac{1}{2}"),
    (r"it is $\dfrac{1}{2}$.", r"\frac{1}{2}"),
    ("5!", "5"),
    ("(1/2)", "1/2"),
    ("12:30", "30"),
    ("7\u202f500", "7500"),
    ("x = 3.", "3"),
    (r"costs \$1{,}250.50.", "1250.50"),
]
ANYTHING = [
    (r"The share is $\frac{3}{4}$.", r"\frac{3}{4}"),
    ("so p = .5", ".5"),
    ("So he earns $7{,}500.", "7500"),
    # a comma behind grouped digits is the sentence's, and blanks group them too where a group begins with 0
    ("He earns $3,500, which is more.", "3500"),
    ("Total: CHF 3’500.", "3500"),
    ("CHF 3'500'000 in all", "3500000"),
    ("He is 5'11 tall, 12 in all", "12"),
    ("1,234,567, then", "1234567"),
    ("Rs. 1,00,000, in all", "100000"),
    ("So 1,234, 5,678, and 9,012, are", "9012"),
    ("$1,500, $2,500, and no more", "2500"),
    ("12,345,67", "67"),
    ("1,2,3,", "3"),
    ("about 467 000 people", "467000"),
    ("1 000 000.5 in all", "1000000.5"),
    ("100 200", "200"),
    ("7 12 000", "000"),
    (r"<think>try \boxed{9}? no.</think>The answer is 12.", "12"),
    (r"The answer is $\frac{8}{11}$.", r"\frac{8}{11}"),
    ("The answer is 12. Check: 12 - 3 = 9.", "12"),
    (r"Therefore $x \geq 5$ is the solution.", r"x \geq 5"),
    ("so $x = 5+5 = 10$", "10"),
    ("Thus $(2, 3)$.", "(2, 3)"),
    ("The answer is 3 times 4, so 12", "12"),
    ("Final Answer: The final answer is $12$. I hope it is correct.", "12"),
    ("The answer is 5. Wait, that is 7", "7"),
    ("It is $2x+3$.", "2x+3"),
    (r"so 2 + \sqrt{3}", r"2 + \sqrt{3}"),
    ("#### 5", "5"),
    ("<answer>7</answer>", "7"),
    ("<think>5", None),
    ("the answer is **42**.", "42"),
    ("answer: $18", "18"),
    ("The answer is 18 dollars", "18"),
    (r"\boxed{4}, \boxed{9} and \boxed{16}.", "4, 9, 16"),
    ("The interval is $[2,3)$", "[2,3)"),
    ("The answer is -5", "-5"),
    (r"answer is \(x=3\)", "x=3"),
    ("The answer is 1/3.", "1/3"),
]
BOXES = [
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{3} then \boxed{4}", "4"),
    (r"\boxed{3} then \boxed{4", None),
    (r"\boxed 5.", "5"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{\boxed{3}}", "3"),
    (r"\fbox{7}", "7"),
    (r"\boxedness{7}", None),
    (r"\boxed{}", None),
    ("no box", None),
    (r"\boxed{-7} and \boxed{2}", "-7, 2"),
    (r"\boxed{1}\boxed{2}", "1, 2"),
    (r"\boxed{1} no no no no no \boxed{2}", "2"),
    (r"\boxed{1} papers and \boxed{2} bins", "1, 2"),
    (r"$\boxed{(3, 3)} \text{ for part (a) and } \boxed{(1, 1)}$", "(3, 3), (1, 1)"),
    (r"First \boxed{3}, so the result is \boxed{6}", "6"),
    (
        r"\($y_1 = \boxed{-2(x - 1)^2 + 5} \) and \( y_2 = \boxed{3(x + 2)^2 - 2} \) ",
        "-2(x - 1)^2 + 5, 3(x + 2)^2 - 2",
    ),
    (r"\boxed{840}.,but let me \boxed{840}", "840"),
    (r"\boxed{5}  \boxed{5}", "5"),
    (r"\boxed{5} and \boxed{5}", "5, 5"),
    (r"$x=\boxed{2}$ or $x=\boxed{-3}$", "2, -3"),
    (r"\boxed{2}$ and $\boxed{3}$", "2, 3"),
    (r"\boxed{a}. Next, \boxed{b}", "b"),
    (r"<think>\boxed{3}</think>", None),
    (r"\boxed{3} <think> \boxed{4}", "3"),
    (r"\boxed{3}, not \boxed{4}", "4"),
]
HASHES = [
    ("a\n#### 42", "42"),
    ("#### 1,200.\n\nQ: next", "1,200"),
    ("#### 1\n#### 2", "2"),
    ("####", None),
    ("no hashes 5", None),
    ("#### yes", "yes"),
    ("#### 42\n#### Check", "42"),
    ("#### Step 1\nx\n#### Step 2\n", None),
    ("#### 1. Find the total\n#### 2. Find the rest\n", None),
]
GSM8K = [
    ("#### Step 1\nfoo\n#### Step 2\nso it is 42", None),
    ("so\n#### 1\\,200", "1200"),
    ("so\n#### 5-6", None),
    ("#### 24 cookies (6 for each child)", "24"),
    ("#### 90 m^2", "90"),
    ("#### 8 feet 4 inches", "8"),
    ("#### 7 million", "7000000"),
    ("#### 4 dozen", "48"),
    ("#### 8²", "64"),
    ("#### 9³", "729"),
    ("#### 3½", "3.5"),
    ("#### 8¾", "8.75"),
    ("#### $1,200.00", "1200"),
    ("#### 45.", "45"),
    ("#### 5\n\n#### 6", "6"),
    ("#### 3 hours 30 minutes", "3"),
    ("#### **42**", "42"),
    (r"#### \boxed{18}", "18"),
    ("#### x = 5", "5"),
    ("#### 5 + 6 = 11", "11"),
    ("#### Total: $5", "5"),
    ("#### 5 to 6", None),
    ("#### 5 or 6", None),
    ("#### 1 200", None),
    ("#### 10:30", None),
    ("#### 2/3 of the cake", "2/3"),
    ("#### 50%", "50"),
    ("#### -5", "-5"),
    ("#### −5", "-5"),
    ("#### –5", "-5"),
    ("#### 12 apples left, 3 eaten", "12"),
    ("#### 7{,}500", "7500"),
    ("#### 18\u00a0250", "18250"),
    ("#### The answer is 18", "18"),
    ("#### 18 (= 3 * 6)", "18"),
    ("#### 5 and a half", None),
    ("#### 1.5 million dollars", "1500000"),
    ("#### 12\n####", "12"),
    ("#### 12\n#### Explanation", "12"),
    ("#### Problem 3\n2+2\n#### 4", "4"),
    ("####42", "42"),
    ("#### 42 <|im_end|>", "42"),
    ("#### $42 per week", "42"),
    ("#### 5 - 2", None),
    ("#### 3 x 4 = 12 eggs", "12"),
    ("#### 12 (4 x 3)", "12"),
    ("#### .5", "0.5"),
    ("#### ½", "0.5"),
    ("#### 2 dozen eggs", "24"),
    ("#### 3 hundred", "300"),
    ("#### 1,000,000", "1000000"),
    ("#### 1.000", "1"),
    ("#### 42 is the answer", "42"),
]


@pytest.mark.parametrize(("text", "found"), LAST_NUMBER)
def test_the_last_number_is_no_piece_of_something(text, found):
    assert extract.last_number(text) == found


@pytest.mark.parametrize(("text", "found"), ANYTHING)
def test_any_way_of_giving_an_answer(text, found):
    assert extract.final(text, "any") == found


@pytest.mark.parametrize(("text", "found"), BOXES)
def test_boxes_and_lists_of_boxes(text, found):
    assert extract.boxed(text) == found


@pytest.mark.parametrize(("text", "found"), HASHES)
def test_hashes_that_carry_something(text, found):
    assert extract.after_hashes(text) == found


@pytest.mark.parametrize(("text", "found"), GSM8K)
def test_gsm8k_takes_the_first_number_after_hashes(text, found):
    task = gsm8k.Task(gsm8k.Settings(use="gsm8k", path="rows"))
    assert task.extract(text) == found


@pytest.mark.parametrize("how", ["any", "boxed", "hashes", "last_number", "choice"])
@pytest.mark.parametrize("tag", ["think", "thinking", "reasoning"])
def test_a_thought_is_no_answer(how, tag):
    thought = f"<{tag}>Maybe \\boxed{{9}}.\n#### 9\nThe answer is (c).</{tag}>"
    answer = "So \\boxed{4}.\n#### 4\nThe answer is (b)."
    right = "b" if how == "choice" else "4"
    found = extract.final(f"{thought}\n{answer}", how)
    assert found == right or (how == "last_number" and found == "4")
    assert extract.final(thought, how) is None
    assert extract.final(thought.replace(f"</{tag}>", ""), how) is None
    assert extract.final(f"{answer}\n<{tag}>\\boxed{{9}} #### 9", how) == found  # a new thought, cut off


MEGABYTE = 1_000_000
PIECES = [" ", "\n", "\t", "(", ")", "(a)", "#", "####", "#### ", "#### 1\n", "#### Step 1\n", "<think>", "</think>", "<answer>",
          "<answer>a</answer>", "\\boxed", "\\boxed{", "\\boxed{1}", "\\boxed{1} and ", "}", "{", "$", "$1", "$1$ ", "$ 1 $", "\\(", "\\(1",
          "\\[", "1", "1,", "1 ", "1/", "-", "--1", ".", ".1", "1e", "^", "_", "^{1", "_{", "\\frac", "\\frac{", "\\frac{1}{2}", "\\sqrt{",
          "\\text{a", "answer ", "answer is ", "answer :", "answer is (", "not (a) ", "(a) because ", "a", "A ", "B,", "it is ", "so ", "(a) or (b)",
          "- \n", "*", "`", "~", "\\,", "{,}", "²", "½", "√", "√(", "×10", "−", "\u00a0", "1\u00a0", "°", "①", "٣", "\ud800", "=", "x=", "x = 1 ",
          "<", ":", "1:", "%", "1 million", "option ", "\\\\", "|", "'", '"', "“", "[a]", "\r", "\x00", "\u200b", "𝟑", "final answer is $",
          "a is correct ", "I choose ", "answer" + " " * 500 + ":", "1 1/", "(1,", "[1", "\\pm ", "\\cup "]  # fmt: skip
LIMIT = 3.0  # seconds of processor time for all of one text: ten times the slowest (0.3 s), and any square of 1 MB is hours


@pytest.mark.parametrize("piece", PIECES, ids=ascii)
def test_a_megabyte_of_anything_is_read_in_linear_time(piece):
    count = MEGABYTE // len(piece)
    for text in (
        piece * count,
        "the answer is " + piece * count + "x",
        "#### " + piece * count,
        "\\boxed{" + piece * 9_000 + "}",
    ):
        start = time.process_time()
        for how in ("boxed", "hashes", "last_number", "choice", "any"):
            found = extract.final(text, how)
            if found:
                extract.first_number(found)
        looks.plain(text)
        numbers.number(text, units=True)
        same(text, "1.5 cm", kind="numeric")
        comparable(text)
        forms.read(text[:1_000])
        assert time.process_time() - start < LIMIT, (piece, how)
