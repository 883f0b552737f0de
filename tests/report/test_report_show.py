"""Rows as people see them; what a model wrote cannot act on the terminal."""

from pipeline.report.show import render_rows, safe
from pipeline.rows import Dropped, Example, Label, Node, Pair, Problem, StepExample, Trace


def trace(number, text="3+4=7\n7*2=14", answer="14", **more):
    steps = text.splitlines(keepends=True)
    ids = {"problem_id": "p", "id": f"p/{number}", "prompt": "Q", "token_ids": [1, 2, 3], "step_ends": [1, 3]}
    return Trace(**ids, text=text, steps=steps, answer=answer, **more)


PROBLEMS = {"p": Problem(id="p", question="Make 14\nfrom 3 4 2", answer="14", split="dev")}


def test_traces_with_labels_and_dropped():
    rows = [trace(0), trace(1, answer=None, finish="length"), trace(2)]
    rows += [Label(problem_id="p", trace_id="p/0", correct=True, step_scores=[0.5, None], labeller="prm")]
    rows += [Label(problem_id="p", trace_id="p/1", correct=False, reason="no answer", labeller="outcome")]
    rows += [Dropped(problem_id="p", what="p/9", reason="no_answer")] * 2
    text = render_rows(rows, limit=2, problems=PROBLEMS)
    assert "[0] p  RIGHT, answer 14, 3 tokens, ended by eos" in text
    assert "    Make 14 from 3 4 2" in text
    assert "   0.500 | 3+4=7" in text
    assert "         | 7*2=14" in text
    assert "[1] p  wrong, no answer" in text
    assert "outcome: wrong, no answer" in text
    assert "[2]" not in text
    assert "1 more" in text
    assert "dropped: 2 no_answer" in text


def test_one_row_with_every_field():
    text = render_rows([trace(0), trace(1, score=0.25, chosen=True)], number=1)
    assert "[1] p  answer 14, 3 tokens, ended by eos, chosen, score 0.250" in text
    assert "token_ids: [1, 2, 3]" in text
    assert "[0]" not in text
    assert render_rows([trace(0)], number=3) == "no row 3: there are 1, 0 to 0"
    assert render_rows([]) == "no rows"


def test_a_tree_is_indented_and_names_its_ends():
    nodes = [
        Node(problem_id="p", id="r", parent=None, step="", depth=0, visits=9),
        Node(problem_id="p", id="a", parent="r", step="3+4=7\n", depth=1, value=0.8, visits=6, prior=0.5),
        Node(problem_id="p", id="b", parent="r", step="3*4=12\n", depth=1, value=0.1, visits=3),
        Node(problem_id="p", id="c", parent="a", step="7*2=14", depth=2, value=1.0, visits=2, trace_id="p/0"),
    ]
    rows = [*nodes, trace(0, chosen=True), Label(problem_id="p", trace_id="p/0", correct=True)]
    lines = render_rows(rows, problems=PROBLEMS).splitlines()
    assert lines[0] == "[0] p  tree of 4 nodes"
    assert [line.split("x", 1)[1] for line in lines[2:6]] == [
        "  (question)",
        " p 0.50    3+4=7",
        "      7*2=14  RIGHT (chosen)",
        "    3*4=12",
    ]


def test_training_rows():
    rows = [Example(problem_id="p", prompt="Q", completion="a\nb", trace_id="p/0")]
    assert "example from p/0" in render_rows(rows)
    assert "completion a\n               b" in render_rows(rows)
    pair = Pair(problem_id="p", prompt="Q", chosen="good", rejected="bad", margin=0.5)
    assert "rejected bad" in render_rows([pair])
    where = {"token_ids": [1, 2], "step_ends": [1, 2]}
    step = StepExample(problem_id="p", prompt="Q", completions=["a\n", "b"], labels=[1.0, None], **where)
    assert "   1.000 | a" in render_rows([step])
    assert "answer 14" in render_rows(list(PROBLEMS.values()))
    label = Label(problem_id="p", trace_id="p/0", value=0.5)
    assert "label of p/0: value 0.500" in render_rows([label])


def test_model_text_cannot_act():
    hostile = "\x1b[2J\x1b]0;owned\x07 a\u202eb\r\x00 [red]x[/red] caf\u00e9"
    shown = safe(hostile)
    assert shown == "\\x1b[2J\\x1b]0;owned\\x07 a\\u202eb\\r\\x00 [red]x[/red] caf\u00e9"
    text = render_rows([trace(0, text=hostile, answer=hostile)], number=0)
    assert all(char.isprintable() or char == "\n" for char in text)


def test_long_lines_wrap_within_the_width():
    text = render_rows([trace(0, text="word " * 100)], width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("word") == 100
