"""Countdown, as a task for language models: reach a number by arithmetic with given ones."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

import attrs
import numpy as np

from bitrl.core.environments.prompt_task import PromptTask

HIGHEST_TARGET = 100
LONGEST_EXPRESSION = 200
WELL_FORMED = 0.1
"""Reward of an expression with the right numbers and a wrong value, as in TinyZero, which made the task known."""

OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
SUMS = ("+", "-")

_TOKEN = re.compile(r"\s*(?:(0|[1-9][0-9]*)(?![0-9])|([-+*/()]))")


@attrs.frozen
class Puzzle:
    """The numbers to use, the number to reach, and an expression that reaches it."""

    numbers: tuple[int, ...]
    target: int
    solution: str


class Countdown(PromptTask):
    """Reach a number by +, -, * and / with each of the given numbers once: "Make 17 from 3, 5, 2:" asks for "3*5+2".

    Every puzzle has a solution. Reward: 1 for an expression that is right; 0.1 for one that uses the numbers and has
    another value (`env.partial`).
    """

    isolated = False
    longest_prompt = 100

    def prompt(self, random: np.random.Generator) -> tuple[str, Puzzle]:
        """Numbers uniform from 1 to `env.largest`; targets from 1 to 100 by random operations on them."""
        while True:
            numbers = random.integers(1, self.options.largest + 1, size=self.options.numbers).tolist()
            value, solution = _combined(numbers, random)
            if value.denominator == 1 and 1 <= value <= HIGHEST_TARGET:
                shuffled = [numbers[i] for i in random.permutation(len(numbers))]
                puzzle = Puzzle(tuple(shuffled), int(value), solution)
                return f"Make {puzzle.target} from {', '.join(map(str, shuffled))}:", puzzle

    def score(self, answer: Puzzle, completion: str) -> float:
        """See the class."""
        value = value_with(answer.numbers, completion)
        if value is None:
            return 0.0
        return 1.0 if value == answer.target else WELL_FORMED * self.options.partial

    def solution(self, answer: Puzzle) -> str:
        """The expression that the puzzle was made from."""
        return answer.solution


def value_with(numbers: Sequence[int], expression: str) -> Fraction | None:
    """The value of an expression of +, -, *, /, parentheses and integers, which must be `numbers`, each as often as
    there; None if it is not such an expression, or divides by zero.
    """
    tokens = _tokens(expression)
    if tokens is None or sorted(token for token in tokens if isinstance(token, int)) != sorted(numbers):
        return None
    try:
        value, rest = _sum(tokens, 0)
    except (IndexError, ZeroDivisionError, _NotAnExpression):
        return None
    return value if rest == len(tokens) else None


class _NotAnExpression(Exception): ...


def _tokens(expression: str) -> list[int | str] | None:
    expression = expression.strip()
    if len(expression) > LONGEST_EXPRESSION:
        return None
    tokens: list[int | str] = []
    place = 0
    while place < len(expression):
        found = _TOKEN.match(expression, place)
        if found is None:
            return None
        tokens.append(int(found[1]) if found[1] else found[2])
        place = found.end()
    return tokens


def _sum(tokens: Sequence[int | str], place: int) -> tuple[Fraction, int]:
    """The value of the sum that begins at `place`, and where it ends."""
    value, place = _product(tokens, place)
    while place < len(tokens) and tokens[place] in ("+", "-"):
        operation = OPERATIONS[str(tokens[place])]
        term, place = _product(tokens, place + 1)
        value = operation(value, term)
    return value, place


def _product(tokens: Sequence[int | str], place: int) -> tuple[Fraction, int]:
    value, place = _factor(tokens, place)
    while place < len(tokens) and tokens[place] in ("*", "/"):
        operation = OPERATIONS[str(tokens[place])]
        factor, place = _factor(tokens, place + 1)
        value = operation(value, factor)
    return value, place


def _factor(tokens: Sequence[int | str], place: int) -> tuple[Fraction, int]:
    token = tokens[place]
    if isinstance(token, int):
        return Fraction(token), place + 1
    if token != "(":
        raise _NotAnExpression
    value, place = _sum(tokens, place + 1)
    if tokens[place] != ")":
        raise _NotAnExpression
    return value, place + 1


def _combined(numbers: Sequence[int], random: np.random.Generator) -> tuple[Fraction, str]:
    """Numbers combined two by two by random operations: the value, and the expression, with no needless parentheses."""
    parts = [(Fraction(number), str(number), "") for number in numbers]  # value, expression, its outermost operation
    while len(parts) > 1:
        i, j = sorted(random.permutation(len(parts))[:2].tolist())
        right, left = parts.pop(j), parts.pop(i)
        operation = "+-*/"[random.integers(4)]
        if left[0] < right[0]:  # so that no difference is negative, and a quotient may be whole
            left, right = right, left
        parts.append(_joined(left, operation, right))
    return parts[0][0], parts[0][1]


def _joined(
    left: tuple[Fraction, str, str], operation: str, right: tuple[Fraction, str, str]
) -> tuple[Fraction, str, str]:
    """Two parts as one; a quotient that would not be whole becomes a sum."""
    if operation == "/" and (not right[0] or (left[0] / right[0]).denominator > 1):
        operation = "+"
    value = OPERATIONS[operation](left[0], right[0])
    first = f"({left[1]})" if operation in "*/" and left[2] in SUMS else left[1]
    inner = {"+": (), "-": SUMS, "*": SUMS, "/": (*SUMS, "*", "/")}[operation]
    second = f"({right[1]})" if right[2] in inner else right[1]
    return value, f"{first}{operation}{second}", operation
