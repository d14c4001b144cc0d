"""Which actions a rule of TextWorld's allows in a state: the ways to bind its placeholders so that all that it asks for
holds there. TextWorld finds the same by itself, several times more slowly: at each step of its search it looks up and
sorts the facts of every combination of types.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

UNBOUND = ""


@attrs.frozen
class Fact:
    """A proposition: its name, and the names and types of the things that it is about."""

    name: str
    things: tuple[str, ...]
    types: tuple[str, ...]


@attrs.frozen
class Condition:
    """A precondition: the name of a fact, and for each thing that it is about the names of the types it may have and
    its place in a binding.
    """

    name: str
    types: tuple[frozenset[str], ...]
    places: tuple[int, ...]


class Matcher:
    """One rule."""

    def __init__(self, rule: Any, kb: Any):
        """`kb` is TextWorld's knowledge base.

        Raises:
            ValueError: the rule is also about things that no precondition names.
        """
        self.rule, self.constants = rule, kb.types.constants_mapping
        named = [placeholder for predicate in rule.preconditions for placeholder in predicate.parameters]
        self.placeholders = [*dict.fromkeys([*self.constants, *named])]
        if not set(self.placeholders).issuperset(rule.placeholders):
            raise ValueError(f"TextWorld's rule {rule.name}: a placeholder stands in no precondition")
        place = {placeholder: index for index, placeholder in enumerate(self.placeholders)}

        def subtypes(name: str) -> frozenset[str]:
            return frozenset(each.name for each in kb.logic.types.get(name).subtypes)

        self.conditions = [
            Condition(
                predicate.name,
                tuple(subtypes(one.type) for one in predicate.parameters),
                tuple(place[one] for one in predicate.parameters),
            )
            for predicate in rule.preconditions
        ]
        free = len(self.placeholders) - len(self.constants)
        self._unbound = [*(each.name for each in self.constants.values()), *[UNBOUND] * free]

    def bindings(self, facts: Mapping[str, Sequence[Fact]]) -> Iterator[tuple[str, ...]]:
        """The names of the things that stand for the placeholders, no two the same, such that every precondition is one
        of a state's facts, which are grouped by name.
        """
        if all(condition.name in facts for condition in self.conditions):
            yield from self._extend(self._unbound, facts, 0)

    def _extend(self, bound: list[str], facts: Mapping[str, Sequence[Fact]], at: int) -> Iterator[tuple[str, ...]]:
        if at == len(self.conditions):
            yield tuple(bound)
            return
        condition = self.conditions[at]
        for fact in facts[condition.name]:
            further = _bind(bound, condition, fact)
            if further is not None:
                yield from self._extend(further, facts, at + 1)

    def action(self, binding: Iterable[str], variables: Mapping[str, Any]) -> Any:
        """The rule with its placeholders bound to these things, given TextWorld's variables by their names."""
        things = (variables[name] for name in binding)
        return self.rule.instantiate(dict(zip(self.placeholders, things, strict=True)))


def _bind(bound: list[str], condition: Condition, fact: Fact) -> list[str] | None:
    """The binding with a fact's things at the condition's places; None where they contradict it."""
    if len(fact.things) != len(condition.places):
        return None
    further = bound
    for place, types, thing, type_ in zip(condition.places, condition.types, fact.things, fact.types, strict=True):
        there = further[place]
        if there == thing:
            continue
        if there != UNBOUND or type_ not in types or thing in further:
            return None
        if further is bound:
            further = bound.copy()
        further[place] = thing
    return further
