"""The chosen letter: the forms that models write it in, and what is no choice."""

import pytest

from pipeline.answers.choices import choice
from pipeline.tasks import csqa, jsonl

CASES = [
    ("Therefore, the answer is bank (a).", "a"),
    ("Answer: B", "b"),
    (r"the answer is \boxed{\text{C}}", "c"),
    ("not (b) but (a)", "a"),
    ("(a) looks right. But the answer is b.", "b"),
    ("Thus the answer is (c). A dog (see a) barks", "c"),
    ("the answer is a dog", None),
    ("A nice day", None),
    ("B", "b"),
    ("The best option is **D**", "d"),
    ("the answer is (k)", None),
    ("**Answer:** B", "b"),
    ("The answer is $B$.", "b"),
    ("<answer>B</answer>", "b"),
    ("The answer is not (a), it is (b).", "b"),
    ("The answer is C because (A) and (D) make no sense.", "c"),
    ("I think it is (E) since (B) is too small.", "e"),
    ("The answer is “C”.", "c"),
    ("The answer is `E`.", "e"),
    ("Answer: B garage", "b"),
    ("The answer is A kitchen.", "a"),
    ("Option C is correct.", "c"),
    ("The answer is (A) or (B).", None),
    ("(C) and (E) are both right.", None),
    ("B because (A) is wrong", "b"),
    ("B because (A) is wrong.", "b"),
    ("Option B is correct", "b"),
    ("not (a), it is (b)", "b"),
    ("The correct answer is: **(D) library**", "d"),
    ("**D**", "d"),
    ("(D)", "d"),
    ("D. library", "d"),
    ("D) library", "d"),
    (r"\boxed{D}", "d"),
    (r"\boxed{(D)}", "d"),
    (r"\boxed{\textbf{D}}", "d"),
    (r"\boxed{D. library}", "d"),
    (r"\boxed{\text{D) library}}", "d"),
    ("The answer is not (a).", None),
    ("The answer is not A.", None),
    ("It cannot be (c).", None),
    ("Neither (a) nor (b).", None),
    ("The answer is option J.", "j"),
    ("The answer is (i).", "i"),
    ("I choose B.", "b"),
    ("I would go with (c).", "c"),
    ("The final answer is 'B'.", "b"),
    ("Answer:\nB", "b"),
    ("Final Answer: (E)", "e"),
    ("The answer is (b) because (a) is too cold and (c) too hot.", "b"),
    ("The answer is a microphone (d).", "d"),
    ("The answer is A microphone (d).", "d"),
    ("(A) is wrong, (B) is wrong, so (C).", "c"),
    ("A and B are wrong; the answer is C", "c"),
    ("The answer could be (a), but (b) is better.", "b"),
    ("Between (a) and (b), the answer is (a).", "a"),
    ("The answer is either A or C.", None),
    ("The answer is [B]", "b"),
    ("The answer is __B__.", "b"),
    ("the correct option is (B) garage.", "b"),
    ("Answer - B", "b"),
    ("So, the answer is B!", "b"),
    ("The answer is B, not A.", "b"),
    ("The answer is (B), not (A).", "b"),
    ("A", "a"),
    ("a", "a"),
    ("(a)", "a"),
    ("Let me think. A dog can bark.", None),
    ("I do not know.", None),
    ("C is the best answer because B is too small.", "c"),
    ("C is the correct answer.", "c"),
    ("The choice is C: garage", "c"),
    ("Therefore, the answer is refrigerator (b).", "b"),
    ("<think>the answer is (a)</think> The answer is (b).", "b"),
    ("<think>the answer is (a)</think>", None),
    ("Ｂ", "b"),
    ("The answer is both (a) and (b)", None),
    ("(A) or (B)", None),
    ("Answer: A, B", None),
    ("The answer is A/B.", None),
    ("The answer is D – library", "d"),
    ("The answer is D — library", "d"),
    ("Choice (b) is right, since (a) is wrong", "b"),
    ("It's B.", "b"),
    ("The answer is I.", "i"),
    ("The answer is: I think B.", "b"),
    ("My answer is B) garage", "b"),
    ("Correct answer: B", "b"),
    ("The answer is\n\n**B**", "b"),
    ("The answer is thus (B).", "b"),
    ("The answer isn't (a), it's (c).", "c"),
    ("It is not (a) or (b), so it is (c).", "c"),
    ("Answer (b)", "b"),
    (r"\text{B}", "b"),
    (r"The answer is \(B\).", "b"),
    (r"The answer is $\text{(B)}$", "b"),
    ('{"answer": "B"}', "b"),
    ("option b", "b"),
    ("The answer is b", "b"),
    ("The answer is B and here is why: (A) is wrong.", "b"),
    ("So the answer is (C) library and not (D) park.", "c"),
    ("E. Because B is not valid", "e"),
    ("Because B is valid", None),
    ("(A) is wrong because it is cold. (B) fits.", "b"),
    ("(a) would be hot", None),
    ("A is not correct. B is correct.", "b"),
    ("Only (C) makes sense.", None),
    ("The right option: C", "c"),
    ("The answer is (C), library, because (A) and (B) are outside.", "c"),
    ("answer: (c)", "c"),
    ("Answer: c.", "c"),
    ("ANSWER: C", "c"),
    ("Answer is C", "c"),
    ("The answer is 'c'", "c"),
    ("The answer is ‘C’.", "c"),
    ("I'd pick (d).", "d"),
    ("Final answer: D\n\nExplanation: (A) is small, (B) is far.", "d"),
    ("D\n(A) is small", "d"),
    ("The answer is (d) and (d) only.", "d"),
    ("The answer is option (d), i.e. park.", "d"),
    ("Thus, D.", "d"),
    ("Therefore (D)", "d"),
    ("So the best choice is the library (d).", "d"),
    ("The options are (A) cat, (B) dog. So (B)", "b"),
    ("Not (a). Not (b).", None),
    ("The answer is not B but C.", "c"),
    ("The answer is D: (D) park", "d"),
    ("The correct answer would be (d) park.", "d"),
    ("[[D]]", "d"),
    ("<answer>(d) park</answer>", "d"),
    ("<answer>\nD\n</answer>", "d"),
    (r"\boxed{\text{D}}", "d"),
    (r"The answer is \textbf{(D)}", "d"),
    ("answer=D", "d"),
    ("The answer: **d**", "d"),
    ("The answer is i.d (a).", "a"),
    ("The answer is i'm hungry (d).", "d"),
    ("The answer is should not (e).", "e"),
    ("The answer is (b) ore.", "b"),
]


@pytest.mark.parametrize(("text", "letter"), CASES)
def test_the_letter_that_is_chosen(text, letter):
    assert choice(text) == letter


def test_only_the_options_there_are():
    assert choice("The answer is (f).", "abcde") is None
    assert choice("The answer is (e).", "abcde") == "e"


@pytest.mark.parametrize("key", list("ABCDEFGHIJ"))
def test_ten_options_read_their_own_gold(key):
    row = {
        "id": "q",
        "question": "Which?",
        "choices": {"label": list("ABCDEFGHIJ"), "text": [f"thing {n}" for n in range(10)]},
        "answerKey": key,
    }
    task = csqa.Task(csqa.Settings(use="csqa", path="rows"))
    problem = task.read(row)
    for text in (
        task.gold_completion(problem),
        f"**{key}**",
        f"Option {key} is correct.",
        f"The answer is {key}) thing",
    ):
        assert task.correct(task.extract(text), problem), text


@pytest.mark.parametrize("compare", ["exact", "math", "numeric"])
@pytest.mark.parametrize("gold", ["B", "b", "(B)", "B."])
def test_keys_of_either_case_with_any_comparison(compare, gold):
    task = jsonl.Task(jsonl.Settings(use="jsonl", path="rows", extract="choice", compare=compare))
    problem = task.read({"question": "Which?", "answer": gold})
    assert task.correct(task.extract(task.gold_completion(problem)), problem)
    assert task.correct(task.extract("The answer is B."), problem)
    assert not task.correct(task.extract("The answer is C."), problem)
    assert not task.correct(task.extract("I do not know."), problem)
