"""A method's module held against its room's Protocol: what is missing, misnamed or asked for in vain.

Each room's `__init__` has `contract(module)`, which gives the Protocol that a file of the room has to keep.
Its functions are called with exactly these parameters, in this order; those marked `optional` may be missing,
and the Protocol's own then stands in. Nothing here knows a room or a method by name."""

from __future__ import annotations

import difflib
import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

NEAR = 0.8  #: names more alike than this may be the same name, misspelt


def breaches(module: ModuleType, contract: type, where: str) -> Iterator[str]:
    """What of a contract a module does not keep, a sentence each."""
    for name, wanted in class_hooks(contract).items():
        found = getattr(module, name, None)
        if not isinstance(found, type):
            yield f"{where}: has no class {name}({wanted.__name__})"
        elif not issubclass(found, wanted):
            base = f"{wanted.__module__}.{wanted.__name__}"
            yield f"{where}: {name} is no {wanted.__name__}: derive it from {base}"
        else:
            yield from _class_breaches(found, wanted, f"{where}: {name}")
    hooks = functions(contract)
    for name, called in hooks.items():
        made = getattr(module, name, None)
        if made is None:
            if near := _misspelt(name, vars(module), hooks):
                yield f"{where}: has a function {near}; is {shown(name, called)} meant (else: _{near})?"
            elif not getattr(called, "optional", False):
                yield f"{where}: has no function {shown(name, called)}"
        elif not callable(made):
            yield f"{where}: {name} is no function; {shown(name, called)} is wanted"
        else:
            yield from _parameters(made, called, where, name)


def _class_breaches(found: type, wanted: type, where: str) -> Iterator[str]:
    """A class that a method brings (a task): has it what its base leaves open, with the same parameters?"""
    for name in getattr(wanted, "REQUIRED", ()):
        if getattr(found, name) is getattr(wanted, name):
            yield f"{where}: has no method {shown(name, getattr(wanted, name))}"
    for name, own in vars(found).items():
        base = getattr(wanted, name, None)
        if not name.startswith("_") and inspect.isfunction(own) and inspect.isfunction(base):
            yield from _parameters(own, base, where, name, drop=1)


def class_hooks(contract: type) -> dict[str, type]:
    """The classes that a module must have, with their bases: `Settings: type[GenerateSettings]`."""
    hints = typing.get_type_hints(contract)
    return {name: typing.get_args(hint)[0] for name, hint in hints.items() if typing.get_origin(hint) is type}


def functions(contract: type) -> dict[str, Callable[..., Any]]:
    """The functions of a contract, those of the ones that it extends too."""
    return {
        name: made
        for each in reversed(contract.__mro__)
        for name, made in vars(each).items()
        if name[0] != "_" and inspect.isfunction(made)
    }


def shown(name: str, wanted: Callable[..., Any]) -> str:
    """`label(problem, group, settings, task)`."""
    said, keywords = [], False
    for parameter in _wanted(wanted):
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            said.append("*")
        said.append(parameter.name)
    return f"{name}({', '.join(said)})"


def _wanted(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """What a hook is called with: the Protocol's parameters without self."""
    return list(inspect.signature(function).parameters.values())[1:]


def _parameters(
    found: Callable[..., Any], wanted: Callable[..., Any], where: str, name: str, drop: int = 0
) -> Iterator[str]:
    """Can the function be called as the contract calls it, each value arriving under its own name?"""
    called = f"it is called as {shown(name, wanted)}"
    own = list(inspect.signature(found).parameters.values())[drop:]
    places = [p.name.lstrip("_") for p in own if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_rest = any(p.kind is p.VAR_POSITIONAL for p in own)
    keywords = {p.name for p in own if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    takes_keywords = any(p.kind is p.VAR_KEYWORD for p in own)
    by_place = [p.name for p in _wanted(wanted) if p.kind is not p.KEYWORD_ONLY]
    by_name = [p.name for p in _wanted(wanted) if p.kind is p.KEYWORD_ONLY]
    missing = [n for n in by_place if n not in places and not takes_rest]
    missing += [n for n in by_name if n not in keywords and not takes_keywords]
    here = f"{where}: {name}({', '.join(p.name for p in own)})"
    if missing:
        yield f"{here}: has no parameter {', '.join(missing)}; {called}"
        return
    if not takes_rest and places[: len(by_place)] != by_place:
        yield f"{here}: its parameters stand in another order; {called}"
        return
    known = {*by_place, *by_name}
    more = [p.name for p in own if p.name.lstrip("_") not in known and p.default is p.empty]
    more = [n for n in more if n not in {p.name for p in own if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}]
    if more:
        yield f"{here}: wants {', '.join(more)}, which nobody gives; {called}"


def _misspelt(name: str, there: dict[str, Any], hooks: dict[str, Any]) -> str:
    """A function of the module that may be the missing hook under another name."""
    own = [n for n, value in there.items() if inspect.isfunction(value) and n not in hooks and n[0] != "_"]
    return next(iter(difflib.get_close_matches(name, own, 1, NEAR)), "")


def hook(module: ModuleType, contract: type, name: str) -> Callable[..., Any]:
    """A module's function, or the contract's own where the module has none."""
    found = getattr(module, name, None)
    return found if found is not None else functools.partial(getattr(contract, name), module)
