"""How checks are run and reported. Knows nothing of what they check.

A check is a function of a subject (a component, built and ready) that raises `ConformanceError` where the contract is
broken; the first line of its docstring is its name. What it returns, if anything, is a note: what no contract forbids,
and the author should know.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import attrs
import numpy as np

from bitrl.core.errors import BitrlError

S = TypeVar("S")
Check = Callable[[S], str | None]


class ConformanceError(AssertionError):
    """A component does not keep the contract of its kind; the message is one sentence that says how."""


@attrs.frozen
class Outcome:
    """One check of one component: `component` is `serializer "json"`; `failure` is None, or what is wrong; `note` is
    None, or what there is to know although the contract is kept.
    """

    component: str
    check: str
    failure: str | None = None
    note: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the contract is kept."""
        return self.failure is None


def expect(condition: object, message: str) -> None:
    """Raise ConformanceError with `message` unless `condition` holds."""
    if not condition:
        raise ConformanceError(message)


def examine(component: str, build: Callable[[], S], checks: Iterable[Check[S]]) -> Iterator[Outcome]:
    """Build the subject and run `checks` on it; one outcome for the building and one for each check.

    A subject that cannot be built is not checked further. The last outcome says whether any of it used a global
    generator.
    """
    before = _global_generators()
    try:
        subject = build()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit(), or a panic in an extension module: it stops no other check
        yield Outcome(component, name_of(build), _words(error))
        return
    yield Outcome(component, name_of(build))
    yield from run_checks(component, subject, checks)
    after = _global_generators()
    used = [name for name in before if not _equal(before[name], after[name])]
    failure = (
        f"{' and '.join(used)} changed state: draw from a generator of its own, made from a seed" if used else None
    )
    yield Outcome(component, "It does not use global random generators", failure)


def run_checks(component: str, subject: S, checks: Iterable[Check[S]]) -> Iterator[Outcome]:
    """The outcome of each check of a subject that is there already."""
    for check in checks:
        try:
            note = check(subject)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            yield Outcome(component, name_of(check), _words(error))
        else:
            yield Outcome(component, name_of(check), note=note)


def demand(outcomes: Iterable[Outcome]) -> None:
    """Raise ConformanceError naming every outcome that failed."""
    failed = [f"{outcome.component}: {outcome.check}: {outcome.failure}" for outcome in outcomes if not outcome.passed]
    expect(not failed, "\n".join(failed))


def name_of(check: Callable[..., Any]) -> str:
    """The first line of a check's docstring, without its full stop."""
    return (check.__doc__ or check.__name__).strip().splitlines()[0].removesuffix(".")


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (ConformanceError, BitrlError)):
        return text
    return f"raised {type(error).__name__}: {text}".removesuffix(": ")


def _global_generators() -> Mapping[str, Any]:
    states: dict[str, Any] = {"random": random.getstate(), "numpy.random": tuple(np.random.get_state(legacy=True))[1:]}
    if "torch" in sys.modules:
        states["torch's generator"] = sys.modules["torch"].random.get_rng_state().numpy()
    return states


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(np.array_equal(left, right))
