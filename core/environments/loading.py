"""Builds environments by name or from records, and serializers for their observations."""

from __future__ import annotations

from typing import Any

from bitrl.core.acting.loading import of_flat_observations
from bitrl.core.config import ANY_GYMNASIUM_ID, find_environment
from bitrl.core.environments.environment import Environment
from bitrl.core.interfaces import ObservationSpec, Serializer
from bitrl.core.options import parse
from bitrl.core.records import EnvironmentRecord, SerializerRecord
from bitrl.core.registry import registry


def load_serializer(name: str, env: str | None = None, **options: Any) -> Serializer:
    """A serializer by name, for the observations of `env`; call it with one observation to get its text.

    Raises:
        UsageError: unknown serializer, environment or option.
    """
    record: SerializerRecord = registry().find("serializer", name)
    values: Any = parse(record.options, options, "serializer")
    observation = ObservationSpec()
    if env is not None:
        observation = load_environment(env).observation_spec()
    serializer: Serializer = of_flat_observations(record.load()(values, observation), observation)
    return serializer


def load_environment(name: str, **options: Any) -> Environment:
    """An environment by name; `.make()` gives a `gymnasium.Env`, as a run steps it.

    Raises:
        UsageError: unknown environment or option.
    """
    record = find_environment(name)
    return build_environment(record, parse(record.options, options, "env"), name)


def build_environment(record: EnvironmentRecord, options: Any, name: str) -> Environment:
    """The environment requested as `name`: its id is the record's name, unless the record serves any id."""
    environment: Environment = record.load()(options, name if record.name == ANY_GYMNASIUM_ID else record.name)
    return environment
