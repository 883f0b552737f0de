"""Mistakes of a newcomer in a recipe: each is a sentence that says where, what was seen and what to write."""

import copy

import pytest

from pipeline.errors import RecipeError
from pipeline.recipe.read import examine, parse_yaml, plain

CASES = [
    ("stages.measure.rounds", [3, 1], "the last round, 1, is before the first, 3"),
    ("stages.measure.rounds", [2], "write [first, last]"),
    ("stages.measure.rounds", [None, 2], "write [first, last]"),
    ("stages.measure.votes", ["majorty"], "did you mean majority?"),
    ("stages.measure.votes", [{"use": "weighted", "agregate": "min"}], "did you mean aggregate?"),
    ("models.policy.lora", "non", "write none, or settings such as {r: 16}"),
    ("models.policy.engine.server", "localhost:80", "http://localhost:8000"),
    ("models.policy.gate.metric", "measure/acuracy/greedy", "did you mean accuracy/greedy?"),
    ("finally.guided.search.generate", "mcts_sta", "did you mean mcts_star?"),
    ("wandb.mode", "offlin", "'offline', 'online' or 'disabled'"),
]


def said(data):
    recipe, problems = examine(data, "r.yaml")
    return [*problems, *recipe.not_built]


@pytest.mark.parametrize(("key", "value", "wanted"), CASES)
def test_a_mistake_is_a_sentence(key, value, wanted):
    data = plain("recipes/rest_mcts_countdown.yaml")
    place, (*path, last) = data, key.split(".")
    for part in path:
        place = place.setdefault(part, {})
    place[last] = value
    [line] = said(data)
    assert key.partition(".")[2].split(".")[0] in line
    assert wanted in line


def test_a_misspelt_room_is_found_whatever_stands_before_it():
    data = copy.deepcopy(plain("recipes/quickstart.yaml"))
    data["stages"]["sample"] = {"by": "policy", "n": 4, "generat": "sample"}
    assert any("did you mean generate?" in line for line in said(data))


def test_all_are_said_in_one_go():
    data = plain("recipes/rest_mcts_countdown.yaml")
    data["stages"]["measure"] |= {"rounds": [3, 1], "votes": ["majorty"]}
    data["models"]["policy"]["lora"] = "non"
    assert len(said(data)) == 3


def test_what_is_merged_in_may_be_given_anew_and_a_key_of_ones_own_stands_once():
    merged = parse_yaml(
        "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: [*a, {z: 5, x: 6}]}\n", "r.yaml"
    )
    assert merged["b"] == {"x": 1, "y": 3}
    assert merged["c"] == {"x": 1, "y": 4, "z": 5}
    with pytest.raises(RecipeError, match=r"r\.yaml:2: .*key 'y' stands twice"):
        parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3, y: 4}\n", "r.yaml")
