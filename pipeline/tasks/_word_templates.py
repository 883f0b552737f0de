"""The templates of `tasks/words`: our own sentences, each with its equation. A template is known by its name.

{a} and {b} are people, {things} and {others} what they have (plural), {boxes} and {box} what it is kept in, x,
y and z the numbers that count, d one that does not. Which templates are for training, dev and test is decided
by `words.Settings.templates`.
"""

from __future__ import annotations

from typing import NamedTuple


class Template(NamedTuple):
    """A word problem without its names and numbers."""

    name: str
    story: str
    asked: str
    equation: str

    @property
    def num_steps(self) -> int:
        return sum(sign in "+-*/" for sign in self.equation)


TEMPLATES = tuple(
    Template(*parts)
    for parts in (
        # x + y
        ("found", "{a} had {x} {things} and found {y} more.", "How many {things} does {a} have now?", "x + y"),
        ("both", "{a} has {x} {things}. {b} has {y} {things}.", "How many {things} do they have together?", "x + y"),
        ("came", "{x} children were in the park. Then {y} more children came.", "How many children are in the park now?", "x + y"),
        ("baked", "{a} baked {x} cakes on Monday and {y} cakes on Tuesday.", "How many cakes did {a} bake in all?", "x + y"),
        ("before", "{a} sold {x} {things} and still has {y} {things}.", "How many {things} did {a} have at first?", "x + y"),
        ("more", "{a} picked {x} {things}. {b} picked {y} {things} more than {a}.", "How many {things} did {b} pick?", "x + y"),
        ("walked", "{a} walked {x} meters to the shop and {y} meters to the school.", "How many meters did {a} walk altogether?", "x + y"),
        ("kinds", "A {box} holds {x} red {things} and {y} blue {things}.", "How many {things} are in the {box}?", "x + y"),
        ("cost", "A book costs {x} dollars and a game costs {y} dollars.", "How many dollars do both cost together?", "x + y"),
        ("taken", "After {a} gave away {x} {things}, {y} {things} were left.", "How many {things} did {a} start with?", "x + y"),
        # x - y
        ("gave", "{a} had {x} {things}. {a} gave {y} of them to {b}.", "How many {things} does {a} have left?", "x - y"),
        ("ate", "There were {x} cookies on a plate. {a} ate {y} of them.", "How many cookies are left on the plate?", "x - y"),
        ("left", "{x} birds sat on a roof. {y} of them flew away.", "How many birds are still on the roof?", "x - y"),
        ("lost", "{a} lost {y} of {x} {things} on the way home.", "How many {things} does {a} still have?", "x - y"),
        ("fewer", "{a} has {x} {things}. {b} has {y} fewer.", "How many {things} does {b} have?", "x - y"),
        ("than", "{a} collected {x} {things} and {b} collected {y}.", "How many more {things} did {a} collect than {b}?", "x - y"),
        ("spent", "{a} had {x} dollars and paid {y} dollars for a ticket.", "How many dollars does {a} have left?", "x - y"),
        ("rest", "A {box} holds {x} {things}. {y} of them are green and the rest are yellow.", "How many {things} are yellow?", "x - y"),
        ("needs", "{a} wants to read {x} pages and has read {y} so far.", "How many pages are still to be read?", "x - y"),
        ("grew", "A plant was {y} centimeters tall. Now it is {x} centimeters tall.", "How many centimeters did it grow?", "x - y"),
        ("off", "{x} people were on a bus. At the stop some got off, and {y} people stayed on.", "How many people got off?", "x - y"),
        ("cheaper", "A coat costs {x} dollars. In the sale it is {y} dollars cheaper.", "What does the coat cost in the sale, in dollars?", "x - y"),
        ("used", "{a} had {x} sheets of paper and used some. {y} sheets are left.", "How many sheets did {a} use?", "x - y"),
        # x * y
        ("boxes", "{a} has {x} {boxes} with {y} {things} in each {box}.", "How many {things} does {a} have in all?", "x * y"),
        ("rows", "A garden has {x} rows of {y} trees each.", "How many trees are in the garden?", "x * y"),
        ("price", "One ticket costs {x} dollars.", "How many dollars do {y} tickets cost?", "x * y"),
        ("days", "{a} reads {x} pages every day.", "How many pages does {a} read in {y} days?", "x * y"),
        ("each", "{x} friends brought {y} {things} each.", "How many {things} did they bring in all?", "x * y"),
        ("times", "{a} has {x} {things}. {b} has {y} times as many.", "How many {things} does {b} have?", "x * y"),
        ("tables", "{x} people sit at each of {y} tables.", "How many people are there?", "x * y"),
        ("earns", "{a} earns {x} dollars an hour and works for {y} hours.", "How many dollars does {a} earn?", "x * y"),
        # x / y
        ("shared", "{a} shares {x} {things} equally among {y} friends.", "How many {things} does each friend get?", "x / y"),
        ("packed", "{x} {things} are packed into {boxes} of {y} {things} each.", "How many {boxes} are needed?", "x / y"),
        ("teams", "{x} children form {y} teams of the same size.", "How many children are in each team?", "x / y"),
        ("perday", "{a} wants to read a book of {x} pages in {y} days, the same number each day.", "How many pages is that a day?", "x / y"),
        ("unit", "{y} tickets cost {x} dollars together.", "How many dollars does one ticket cost?", "x / y"),
        ("vans", "{x} people travel in vans. Each van takes {y} people.", "How many vans do they need?", "x / y"),
        ("shelves", "{a} puts {x} books on {y} shelves, the same number on each.", "How many books stand on a shelf?", "x / y"),
        ("pieces", "A rope of {x} meters is cut into pieces of {y} meters.", "How many pieces are there?", "x / y"),
        # two steps
        ("gainloss", "{a} had {x} {things}, bought {y} more and gave {z} to {b}.", "How many {things} does {a} have now?", "( x + y ) - z"),
        ("twice", "{a} had {x} {things}. {a} lost {y} on Monday and {z} on Tuesday.", "How many {things} are left?", "( x - y ) - z"),
        ("three", "{a} has {x} {things}, {b} has {y}, and their teacher has {z}.", "How many {things} do they have in all?", "( x + y ) + z"),
        ("onoff", "{x} people were on a train. {y} got off and {z} got on.", "How many people are on the train now?", "( x - y ) + z"),
        ("boxgive", "{a} has {x} {boxes} of {y} {things} and gives {z} {things} away.", "How many {things} are left?", "( x * y ) - z"),
        ("boxmore", "{a} has {x} {boxes} of {y} {things} and {z} loose {things}.", "How many {things} does {a} have?", "( x * y ) + z"),
        ("sumshare", "{a} has {x} {things} and {b} has {y}. They put them together and share them among {z} children.", "How many {things} does each child get?", "( x + y ) / z"),
        ("leftshare", "{a} had {x} {things} and ate {y}. The rest goes into {z} {boxes}, the same number in each.", "How many {things} are in each {box}?", "( x - y ) / z"),
        ("change", "{a} buys a pen for {y} dollars and a bag for {z} dollars and pays with {x} dollars.", "How many dollars does {a} get back?", "x - ( y + z )"),
        ("tickets", "{a} had {x} dollars and bought {y} tickets for {z} dollars each.", "How many dollars are left?", "x - ( y * z )"),
        ("groups", "{x} girls and {y} boys each planted {z} trees.", "How many trees did they plant in all?", "( x + y ) * z"),
        ("others", "Of {x} children {y} went home. Each of the others got {z} {things}.", "How many {things} were given out?", "( x - y ) * z"),
        ("weeks", "{a} saved {x} dollars a week for {y} weeks and then spent {z} dollars.", "How many dollars does {a} have left?", "( x * y ) - z"),
        ("unitmore", "{y} pencils cost {x} dollars together, all the same.", "How many dollars do {z} of them cost?", "( x / y ) * z"),
    )
)

NAMES = ("Ada", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ivy", "Jonas", "Kim", "Leo", "Mia", "Nils", "Olga", "Paul", "Rosa", "Sam", "Tina", "Umar", "Vera", "Will", "Yara", "Zoe")  # fmt: skip
THINGS = ("apples", "marbles", "stickers", "cards", "pencils", "shells", "coins", "stamps", "balloons", "buttons", "beads", "crayons", "flowers", "eggs", "candies", "nuts", "pears", "stones", "pins", "plums")  # fmt: skip
BOXES = (("boxes", "box"), ("bags", "bag"), ("baskets", "basket"), ("jars", "jar"), ("trays", "tray"), ("crates", "crate"))  # fmt: skip
#: Sentences with a number too many, as SVAMP has them; {who} is a person.
EXTRAS = (
    "{who} also has {d} {others}.",
    "There are {d} {others} on the table as well.",
    "{who} is {d} years old.",
    "It took {d} minutes.",
    "{d} {others} were in another room.",
    "Yesterday {who} saw {d} {others}.",
)
