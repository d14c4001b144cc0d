"""Questions with final answers from a file, as a task for language models.

Knows GSM8K's form: a line is a JSON object with "question" and "answer", whose final answer stands behind "####".
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bitrl.core.environments.prompt_task import HELD_OUT, PromptTask, hash_of
from bitrl.core.errors import UsageError
from bitrl.core.wording import setting, warn

LONGEST_LINE = 1_000_000
"""Characters of a line."""

MARK = "####"
"""What stands before the final answer."""

_NUMBER = re.compile(r"[-+]?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?")
"""1,000.5, but not 1,2, which are two numbers."""

MINUS = "\N{MINUS SIGN}"
"""As typeset texts and many models write it, where a number has "-"."""


@attrs.frozen
class Question:
    """A question and its final answer."""

    text: str
    answer: str


class QuestionFile(PromptTask):
    """Questions of a jsonl file, each line {"question": …, "answer": "… #### 42"}, as in GSM8K.

    The reward is 1 if the completion's final answer is the question's: what stands behind its last "####" (where the
    answer is a number, the first number there), else its last number where the answer is a number, else all of it.
    Numbers are compared as numbers (1,000 is 1000.0), other answers without regard to case and blanks. A tenth of the
    questions, at least one, is held out to evaluate; `env.eval_file` names other questions for that, and then all of
    `env.file` are trained on. Each is drawn anew, so that an evaluation of as many episodes as there are questions asks
    some of them twice and others not.
    """

    isolated = False

    @cached_property
    def questions(self) -> dict[bool, list[Question]]:
        """Whether held out → questions.

        Raises:
            UsageError: there is no file, or it is malformed.
        """
        options = self.options
        if not options.file:
            raise UsageError(f"environment {self.id} needs a file of questions: {setting('env.file', 'FILE')}")
        found = read_questions(Path(options.file))
        if options.eval_file:
            return {False: found, True: read_questions(Path(options.eval_file))}
        if len(found) < 2:
            raise UsageError(
                f"{options.file}: has one question, so none can be held out to evaluate: add more, or name others "
                f"with {setting('env.eval_file', 'FILE')}"
            )
        return _split(found)

    @property
    def identity(self) -> dict[str, str]:
        """The hashes of the files."""
        files = {"file": self.options.file, "eval_file": self.options.eval_file}
        return {f"{name}_sha256": _sha256(Path(path)) for name, path in files.items() if path}

    @property
    def longest_prompt(self) -> int:  # type: ignore[override]
        """Characters of the longest question."""
        return max(len(each.text) for some in self.questions.values() for each in some)

    def prompt(self, random: np.random.Generator) -> tuple[str, str]:
        """A question to train on."""
        return self.draw(random, held_out=False)

    def draw(self, random: np.random.Generator, held_out: bool) -> tuple[str, str]:
        """A question, each as probable as the others."""
        questions = self.questions[held_out]
        chosen = questions[random.integers(len(questions))]
        return chosen.text, chosen.answer

    def score(self, answer: str, completion: str) -> float:
        """See the class."""
        return float(same_answer(answer, final_answer(completion, number=as_number(answer) is not None)))


def read_questions(path: Path) -> list[Question]:
    """The questions of a file, in its order; blank lines are skipped.

    Raises:
        UsageError: it cannot be read, has no questions, or a line is malformed; the message gives its number.
    """
    found: dict[str, int] = {}
    questions = []
    unmarked: list[int] = []
    for number, line in _lines(path):
        question, marked = _question(f"{path}, line {number}", line)
        if not marked:
            unmarked.append(number)
        if question.text in found:
            raise UsageError(
                f"{path}, line {number}: the same question as in line {found[question.text]}: remove one of them"
            )
        found[question.text] = number
        questions.append(question)
    if unmarked and len(unmarked) < len(questions):
        warn(
            f"{path}, line {unmarked[0]}{f' and {len(unmarked) - 1} more' if unmarked[1:] else ''}: the answer has no "
            f'"{MARK}", as others of the file have: all of it is expected as the final answer'
        )
    if not questions:
        raise UsageError(f'{path}: has no questions: expected lines such as {{"question": "…", "answer": "… #### 42"}}')
    return questions


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbers and texts of the lines that are not blank."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(4 * LONGEST_LINE + 1):
                number += 1
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    if len(line) > 4 * LONGEST_LINE:
                        text = "x" * (LONGEST_LINE + 1)
                    else:
                        raise UsageError(
                            f"{path}, line {number}: is not UTF-8 (byte {error.start + 1}): save the file as UTF-8"
                        ) from None
                if len(text) > LONGEST_LINE:
                    raise UsageError(f"{path}, line {number}: is longer than {LONGEST_LINE:,} characters: shorten it")
                if text:
                    yield number, text
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


class _Number(str):
    """A number of a JSON text, as it is written there."""


def _question(where: str, line: str) -> tuple[Question, bool]:
    """The question of a line, and whether its final answer is marked."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f'{where}: has the key "{twice}" twice: remove one of them')
        return dict(pairs)

    def refuse(name: str) -> None:
        raise UsageError(f"{where}: {name} is no number of JSON: correct or remove it")

    try:
        row = json.loads(line, object_pairs_hook=unique, parse_int=_Number, parse_float=_Number, parse_constant=refuse)
    except RecursionError:
        raise UsageError(f"{where}: nests lists or objects too deeply") from None
    except ValueError as error:
        raise UsageError(f"{where}: is not JSON ({error}): correct or remove it") from None
    if not isinstance(row, dict):
        raise UsageError(f'{where}: expected an object such as {{"question": "…", "answer": "…"}}')
    texts = {}
    for name in ("question", "answer"):
        if name not in row:
            raise UsageError(f'{where}: lacks the key "{name}"')
        value = row[name]
        if not isinstance(value, str) or not value.strip() or (isinstance(value, _Number) and name == "question"):
            raise UsageError(f'{where}: expected a non-empty string as "{name}", got {value!r:.60}')
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise UsageError(f'{where}: half of a character (a \\u escape without its pair) is in "{name}": remove it')
        texts[name] = value
    _, mark, answer = texts["answer"].rpartition(MARK)
    answer = answer.strip()
    if not answer:
        raise UsageError(f'{where}: nothing stands behind "{MARK}" in its answer')
    return Question(texts["question"], answer), bool(mark)


def _split(questions: list[Question]) -> dict[bool, list[Question]]:
    """Whether held out → questions. Which are depends on their texts alone, not on their order in the file."""
    ranked = sorted(questions, key=lambda each: hash_of(each.text))
    count = max(1, math.floor(HELD_OUT * len(questions)))
    return {True: ranked[:count], False: ranked[count:]}


def final_answer(completion: str, number: bool) -> str:
    """What stands behind the last "####" of a completion, on that line; without one all of it. Where a number is
    expected, the first number behind the mark, as GSM8K has it, or the last one of the completion.
    """
    _, mark, behind = completion.rpartition(MARK)
    text = behind.strip().partition("\n")[0].strip() if mark else completion.strip()
    numbers = _NUMBER.findall(text.replace(MINUS, "-")) if number else []
    return (numbers[0] if mark else numbers[-1]) if numbers else text


def same_answer(wanted: str, given: str) -> bool:
    """Whether two final answers are the same number, or else the same words."""
    numbers = as_number(wanted), as_number(given)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return wanted.casefold().split() == given.casefold().split()


def as_number(text: str) -> Decimal | None:
    """A final answer as a number: `$1,000`, `-3.50`, `1e-5`; None if it is none."""
    text = text.strip().rstrip(".").replace(MINUS, "-")
    if len(text) > 100 or not _NUMBER.fullmatch(text):
        return None
    return Decimal(text.replace("$", "").replace(",", ""))
