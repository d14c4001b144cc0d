"""The server keeps what its OpenAPI document says: by schemathesis, and by JSON Schema for observations of any kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from served import Served

from bitrl.core.acting.admissible import admissible_actions
from bitrl.core.acting.plain_observations import as_array, as_plain
from bitrl.core.errors import BitrlError, UsageError
from bitrl.core.serving.openapi import schema_of


def test_requests_made_from_the_document_are_answered_as_it_says(served: Served, tmp_path: Path) -> None:
    program = "import sys; from schemathesis.cli import schemathesis; sys.argv[0] = 'schemathesis'; schemathesis()"
    url = f"http://127.0.0.1:{served.port}/openapi.json"
    flags = ["--max-examples", "8", "--seed", "1", "--phases", "examples,coverage,fuzzing", "--no-color"]
    done = subprocess.run(
        [sys.executable, "-c", program, "run", url, *flags], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    assert "6 selected / 6 total" in done.stdout
    assert served.log.read_text(encoding="utf-8") == ""


KINDS: list[tuple[Any, tuple[int, ...], Any]] = [
    ("f4", (3,), [0.5, -1, 2]),
    ("f8", (2, 2), [[0.5, -1], [2, 3]]),
    ("i4", (), 7),
    ("u1", (2,), [0, 255]),
    ("?", (2,), [True, False]),
    ("U5", (), "hello"),
    ([("observation", "f4", (2,)), ("commands", "U20")], (), {"observation": [0, 1], "commands": ["go", "stop"]}),
    ([("observation", "f4", (2,)), ("action_mask", "i1", (3,))], (), {"observation": [0, 1], "action_mask": [0, 1, 1]}),
    ([("[0]", "i8"), ("[1]", [("a", "f4", (1,)), ("b", "U3")])], (), [3, {"a": [0.5], "b": "abc"}]),
]
WRONG = [
    None,
    "a longer text",
    [],
    [0] * 9,
    {"a": 1},
    1e300,
    -5,
    0.5,
    True,
    [True] * 3,
    [[0.5]],
    ["x", "y"],
    {"observation": [0, 1]},
]


@pytest.mark.parametrize(("kind", "shape", "value"), KINDS, ids=[str(kind) for kind, *_ in KINDS])
def test_the_schema_of_an_observation_takes_what_the_agent_takes(kind: Any, shape: tuple[int, ...], value: Any) -> None:
    like = np.zeros((1, *shape), kind)
    schema = schema_of(like.dtype, like.shape[1:])
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    plain = as_plain(as_array(value, like)[0])
    assert validator.is_valid(value)
    assert validator.is_valid(json.loads(json.dumps(plain)))
    for wrong in WRONG:
        try:
            as_array(wrong, like)
        except UsageError:
            assert not validator.is_valid(wrong), wrong
        else:
            assert validator.is_valid(wrong), wrong


@pytest.mark.parametrize(
    ("mask", "taken"),
    [
        ([0, 1, 1], True),
        ([False, True, False], True),
        ([0, 0, 0], False),
        ([False, 0, 0.0], False),
        (None, False),
        ([1, 1], False),
        (["1", 1, 1], False),
        ([0.5, 1, 1], False),
    ],
)
def test_the_schema_of_a_mask_takes_what_admits_an_action(mask: Any, taken: bool) -> None:
    like = np.zeros(1, [("observation", "f4", (1,)), ("action_mask", "i1", (3,))])
    validator = jsonschema.Draft202012Validator(schema_of(like.dtype, ()))
    given = {"observation": [0], "action_mask": mask}
    assert validator.is_valid(given) is taken
    try:
        admissible_actions(as_array(given, like), np.zeros)
    except BitrlError:
        assert not taken
    else:
        assert taken


@pytest.mark.parametrize(
    "number", [2.0**128 - 2.0**103, np.nextafter(2.0**128 - 2.0**103, 0), 2.0**200, 10**20, -(10**30), 10**39, 10**400]
)
def test_the_schema_ends_where_float32_does(number: float) -> None:
    like = np.zeros((1, 2), np.float32)
    try:
        as_array([number, 0], like)
    except UsageError:
        taken = False
    else:
        taken = True
    validator = jsonschema.Draft202012Validator(schema_of(like.dtype, (2,)))
    assert validator.is_valid([number, 0]) is taken
