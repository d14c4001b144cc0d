"""The description of the server's interface as OpenAPI 3.1, with the observations that its agent takes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from bitrl.core.acting.admissible import COMMANDS, MASK, splits
from bitrl.core.acting.agents import Agent
from bitrl.core.acting.nested import is_tuple
from bitrl.core.acting.policies import FactoredPolicy
from bitrl.core.serving.batching import most_observations
from bitrl.core.serving.open_episodes import LONGEST_ID
from bitrl.core.serving.service_limits import MOST_COMMANDS

ERRORS = {
    400: "The request is no HTTP, or its body no JSON.",
    401: "The token is missing or wrong.",
    403: "The request comes from another site's page.",
    404: "There is no such episode, or no such path.",
    405: "The path has no such method.",
    408: "The request took too long to arrive.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    421: "The request names another host.",
    422: "The body is JSON, but nothing that the agent can act on.",
    429: "The client sends too many requests a second.",
    431: "There is too much before the body.",
    500: "The agent failed.",
    503: "Too much is waiting.",
    504: "The action took too long.",
}
EVERY = (400, 401, 403, 405, 408, 413, 421, 429, 431)
"""Those of every path but the page's and the health check's."""


def openapi(agent: Agent) -> dict[str, Any]:
    """The document."""
    several = isinstance(agent.policy, FactoredPolicy)
    observation = schema_of(agent.observation_dtype, agent.observation_shape, several)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bitrl serve",
            "version": version("bitrl"),
            "description": f"Acts in {agent.facts.get('env')}: observations in, greedy actions out.",
        },
        "security": [{}, {"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": _object({"error": {"type": "string", "maxLength": 500}}),
                "Observation": {**observation, "examples": [agent.example]},
                "Explanation": _object({"text": {"type": ["string", "null"]}, "parts": _list({"type": "object"})}),
                "EpisodeId": {"type": "string", "minLength": 1, "maxLength": LONGEST_ID},
            },
        },
        "paths": {
            "/act": {"post": _act(agent)},
            "/episodes": {
                "post": {
                    "operationId": "beginEpisode",
                    "summary": "Begin an episode, which remembers its last states",
                    "responses": _responses(
                        {201: _answer("The episode.", _object({"episode": _of("EpisodeId")}))}, 503
                    ),
                }
            },
            "/episodes/{episode}": {
                "delete": {
                    "operationId": "endEpisode",
                    "summary": "End an episode",
                    "parameters": [{"name": "episode", "in": "path", "required": True, "schema": _of("EpisodeId")}],
                    "responses": _responses({204: {"description": "It has ended."}}, 404),
                }
            },
            "/agent": {"get": _get("agent", "What the agent is, and an example of its observations")},
            "/healthz": {"get": _get("health", "Whether it acts", 503)},
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Counters for Prometheus",
                    "responses": _responses({200: {"description": "Text.", "content": {"text/plain": {}}}}),
                }
            },
            "/openapi.json": {"get": _get("openapi", "This document")},
        },
    }


def _act(agent: Agent) -> dict[str, Any]:
    explain = {"type": "boolean", "description": "Also answer with the text that was read, and the probabilities."}
    one = {"observation": _of("Observation"), "episode": _of("EpisodeId"), "explain": explain}
    several = {
        "observations": {**_list(_of("Observation")), "minItems": 1, "maxItems": most_observations(agent)},
        "explain": explain,
    }
    if agent.history > 1:  # states of an episode are sent one after another
        body = _object(one, "observation", "episode")
    else:
        body = {"oneOf": [_object(one, "observation"), _object(several, "observations")]}
    answers = [
        _object({"action": {}, "explanation": _of("Explanation")}, "action"),
        _object({"actions": _list({}), "explanations": _list(_of("Explanation"))}, "actions"),
    ]
    return {
        "operationId": "act",
        "summary": "The greedy action for an observation, or for several",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": _responses({200: _answer("The action.", {"oneOf": answers})}, 404, 415, 422, 500, 503, 504),
    }


def schema_of(dtype: np.dtype, shape: tuple[int, ...], several_masks: bool = False) -> dict[str, Any]:
    """The JSON Schema of an element of an array of this dtype, as plain data; `several_masks`: an action mask has those
    of several choices, in any of the forms that `FactoredActions.flat_mask` takes.
    """
    if dtype.names is not None:
        parts = {name: schema_of(dtype[name].base, dtype[name].shape) for name in dtype.names}
        if is_tuple(dtype.names):
            count = len(parts)
            return {"type": "array", "prefixItems": [*parts.values()], "minItems": count, "maxItems": count}
        if splits(dtype.names) and COMMANDS in parts:
            commands = {**_list({"type": "string"}), "minItems": 1, "maxItems": MOST_COMMANDS}
            parts[COMMANDS] = {"description": "The admissible commands, of which one is the action.", **commands}
        if splits(dtype.names) and MASK in parts:
            some = {} if several_masks else {**parts[MASK], "contains": {"not": {"enum": [0, False]}}}
            parts[MASK] = {"description": "1 for each action that is admissible, 0 for the others.", **some}
        return {"type": "object", "properties": parts, "required": [*parts]}
    if dtype.kind == "U":
        return {"type": "string", "maxLength": dtype.itemsize // 4}
    schema = _number(dtype)
    for size in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    return schema


def _number(dtype: np.dtype) -> dict[str, Any]:
    """A number that fits the dtype; true and false are taken as 1 and 0."""
    if dtype.kind == "b":
        return {"type": ["integer", "boolean"], "minimum": 0, "maximum": 1}
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return {"type": ["integer", "boolean"], "minimum": int(limits.min), "maximum": int(limits.max)}
    info = np.finfo(dtype)
    if info.bits >= 64:
        return {"type": ["number", "boolean"], "minimum": float(info.min), "maximum": float(info.max)}
    beyond = 2.0**info.maxexp - 2.0 ** (info.maxexp - info.nmant - 2)  # the first that is rounded to infinity
    return {"type": ["number", "boolean"], "exclusiveMinimum": -beyond, "exclusiveMaximum": beyond}


def _get(name: str, summary: str, *errors: int) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "responses": _responses({200: _answer("An object.", {"type": "object"})}, *errors),
    }


def _responses(good: Mapping[int, Any], *errors: int) -> dict[str, Any]:
    bad = {code: _answer(ERRORS[code], _of("Error")) for code in sorted({*EVERY, *errors})}
    return {str(code): answer for code, answer in {**good, **bad}.items()}


def _answer(about: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    """An object with these properties alone, of which all are `required` unless some are named."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [*(required or properties)],
        "additionalProperties": False,
    }


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": dict(items)}


def _of(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
