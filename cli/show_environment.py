"""The observations and actions of an environment: `bitrl show env NAME`."""

from __future__ import annotations

import inspect
import math
from typing import Any

import gymnasium

from bitrl.core.acting.nested import name_of
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.loading import load_environment
from bitrl.core.environments.prompt_task import PromptTask
from bitrl.core.environments.spaces import leaves_of
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.core.records import EnvironmentRecord
from bitrl.plugins.envs import TARGET


def about(record: EnvironmentRecord) -> str | None:
    """The docstring of an environment's class; None for one that only wraps Gymnasium's."""
    return None if record.target == TARGET else inspect.getdoc(record.load())


def environment_facts(name: str) -> dict[str, Any]:
    """An environment with its default options: "observation" (part → its description), "actions" (a description, or
    their names, or the description of each part) and "max_steps" of an episode (None: no limit is known).

    Raises:
        UsageError: there is no such environment, or it cannot be made here.
    """
    environment = load_environment(name)
    if isinstance(environment, PromptTask):  # some need a file, or a name, to be made
        return {"observation": {"prompt": "string"}, "actions": "string: the prompt's completion", "max_steps": 1}
    spec, env = environment.observation_spec(), environment.make()
    try:
        limit = getattr(env.spec, "max_episode_steps", None) or getattr(env.unwrapped, "max_steps", None) or None
        return {"observation": _observation(spec), "actions": _actions(environment, spec, env), "max_steps": limit}
    finally:
        env.close()


def environment_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same as a table."""
    actions, limit = found["actions"], found["max_steps"]
    rows = [(f"observation {part}", words) for part, words in found["observation"].items()]
    if isinstance(actions, dict):
        rows += [(f"action {part}", words) for part, words in actions.items()]
    else:
        rows.append(("actions", actions if isinstance(actions, str) else " | ".join(actions)))
    return [*rows, ("episode", f"at most {limit:,} steps")] if limit is not None else rows


def _observation(spec: ObservationSpec) -> dict[str, str]:
    if spec.prompt:
        return {"prompt": "string"}
    parts = dict.fromkeys(spec.texts, "string")
    if spec.grid:
        parts |= {"image": "the cells in view: object, colour, state", "direction": "the direction it faces"}
    if spec.discrete is not None:
        return {spec.fields[0].name: f"one of {spec.discrete:,}"}
    parts |= dict.fromkeys(spec.images, "image")
    inside = tuple(f"{name}." for name in spec.images)
    if "observation" in spec.images and not spec.parts:
        return parts
    return parts | {field.name: _bounds(field) for field in spec.fields if not field.name.startswith(inside)}


def _bounds(field: Field) -> str:
    unit = f" {field.unit}" if field.unit else ""
    if field.low is None or field.high is None:
        return f"number{unit}"
    return f"{field.low:g} to {field.high:g}{unit}"


def _actions(environment: Environment, spec: ObservationSpec, env: gymnasium.Env) -> str | list[str] | dict[str, str]:
    space = env.action_space
    if spec.commands:
        return "one of the admissible commands of the state"
    if isinstance(space, gymnasium.spaces.Discrete) and environment.action_names():
        return list(environment.action_names())
    if isinstance(space, (gymnasium.spaces.Dict, gymnasium.spaces.Tuple)):
        return {name_of(path): _words(part) for path, part in leaves_of(space)}
    return _words(space)


def _words(space: gymnasium.Space[Any]) -> str:
    """The actions of a space without parts."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return f"one of {int(space.n)}"
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        sizes = space.nvec.ravel().tolist()
        return f"{len(sizes)} choices, one of " + ", one of ".join(map(str, sizes))
    if isinstance(space, gymnasium.spaces.MultiBinary):
        count = math.prod(space.shape)
        return f"{count} number{'' if count == 1 else 's'}, 0 or 1"
    if isinstance(space, gymnasium.spaces.Text):
        return f"string of at most {space.max_length:,} characters"
    assert isinstance(space, gymnasium.spaces.Box)
    count, low, high = space.low.size, space.low.min(), space.high.max()
    return f"{count} number{'' if count == 1 else 's'} from {low:g} to {high:g}"
