"""The C agent beside the Python one of the same run: the same texts and actions, and what it refuses."""

import json
import struct
from pathlib import Path

import attrs
import numpy as np
import pytest
from c_agents import CAgent, pair
from tiny_models import TinyModel

import bitrl
from bitrl.core.acting import c_agents
from bitrl.core.acting.gguf_bytes import gguf_bytes
from bitrl.core.acting.policies import Network
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.core.pieces import Number, Printed
from bitrl.plugins.algos.engine_learner import EngineLearner, EngineNetwork
from bitrl.plugins.backbones import directions
from bitrl.plugins.backbones.files.model_file import ModelFile
from bitrl.plugins.serializers.compact import Compact

CARTPOLE = ObservationSpec(
    "CartPole-v1",
    tuple(
        Field(name, -bound, bound, unit)
        for name, bound, unit in (
            ("cart_position", 4.8, "m"), ("cart_velocity", 5.0, "m/s"), ("pole_angle", 0.42, "rad"),
            ("pole_velocity", 5.0, "rad/s"),
        )
    ),
)  # fmt: skip
NAMELESS = attrs.evolve(
    CARTPOLE,
    env="Other-v0",
    fields=(Field("x0"), Field("é x", 0.0, 0.01, "°C"), Field("count", 0, 9, decimals=0), Field("w3")),
)
DISCRETE = ObservationSpec("Taxi-v3", (Field("state", 0, 499),), discrete=500)
MIXED = ObservationSpec(
    "Mixed-v0",
    (Field("numbers.0", -1, 1), Field("numbers.1", -1, 1), Field("level", 0, 4, decimals=0)),
    texts=("goal", "note"),
    parts=(("goal",), ("note",), ("numbers",), ("level",)),
)
FLOAT4 = np.zeros((1, 4), np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> dict[str, object]:
    """Options of a small language model."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    TinyModel(width=48, ffn=80, heads=3, kv_heads=1, blocks=2).write(path)
    return {"model": str(path), "threads": 1}


def states(count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, 4]: of many sizes, around what rounds to zero, and whole."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(count, 4)) * 10.0 ** rng.integers(-6, 3, (count, 1))
    found[::7] = np.round(found[::7])
    found[1::11] *= 1e9
    found[3] = [-0.0, 0.0005, -0.0004, 1e-30]
    found[4] = [3.4e38, -3.4e38, 99.95, -999.96]
    return found.astype(np.float32)


def written(made, observation) -> str:
    """What the Python agent's serializer writes of one observation."""
    text: str = made.python.reader.serializer(observation)
    return text


TEMPLATE = "at {pole_angle:+08.3e} by {cart_position: .0%}, {{{cart_velocity:07.1f}}} {pole_velocity:g} °"
BOOK = {
    "mean": np.array([0.1, -0.2, 0.0, 3.0]),
    "scale": np.array([1.0, 0.5, 2.0, 1e-3]),
    "codes.0": np.random.default_rng(1).normal(size=(16, 2)),
    "codes.1": np.random.default_rng(2).normal(size=(9, 2)),
}
UNITS = ("e-5", "e0", "e-1+1013", "e3-0.5")
DIRECTIONS = directions.written(np.random.default_rng(1).normal(size=(3, 48)))


@pytest.mark.parametrize(
    ("serializer", "options", "spec"),
    [
        ("json", {}, CARTPOLE),
        ("json", {"decimals": 0}, NAMELESS),
        ("compact", {"decimals": 9}, CARTPOLE),
        ("compact", {}, NAMELESS),
        ("natural", {}, CARTPOLE),
        ("natural", {}, NAMELESS),
        ("values", {}, NAMELESS),
        ("values", {"units": UNITS}, CARTPOLE),
        ("values", {"units": UNITS, "decimals": 1}, NAMELESS),
        ("bins", {}, CARTPOLE),
        ("bins", {"bins": 1999, "unbounded": 0.5}, NAMELESS),
        ("codes", {"codes": 16}, CARTPOLE),
        ("template", {"template": TEMPLATE}, CARTPOLE),
        ("template", {}, CARTPOLE),
    ],
)
def test_texts_and_actions_are_those_of_python(tmp_path, model, serializer, options, spec) -> None:
    state = BOOK if serializer == "codes" else None
    if (serializer, spec) == ("json", CARTPOLE):
        model = {"layers": 1, "threads": 1}  # the starter, in which known keys and phrases are tokens
    made = pair(tmp_path, spec, FLOAT4, serializer, options, model, state=state)
    for observation in states(60):
        expected = made.python.act(observation)
        assert made.c.act(observation.tolist()) == expected
        assert made.c.text == written(made, observation)
        assert made.c.act_numbers(observation.astype(float)) == [expected]


def test_discrete_states_are_integers(tmp_path, model) -> None:
    for serializer in ("json", "compact", "values", "bins", "template"):
        options = {"template": "state {state}"} if serializer == "template" else {}
        made = pair(tmp_path, DISCRETE, np.zeros(1, np.int64), serializer, options, model)
        for state in (0, 7, 499):
            assert made.c.act(state) == made.python.act(state)
            assert made.c.text == written(made, state)
    vectors = pair(tmp_path, DISCRETE, np.zeros(1, np.int64), "vector")
    assert [vectors.c.act(state) for state in (0, 7, 499)] == [vectors.python.act(state) for state in (0, 7, 499)]
    with pytest.raises(ValueError, match="expected 0 to 499, got 500"):
        vectors.c.act(500)


MIXED_EXAMPLE = np.zeros(
    1, [("level", "i1"), ("goal", "U30"), ("numbers", "f8", (2,)), ("note", "U20"), ("extra", "?", (2,))]
)


@pytest.mark.parametrize("serializer", ["json", "compact", "values", "bins", "codes"])
def test_texts_and_parts_of_an_observation_are_written_as_python_writes_them(tmp_path, model, serializer) -> None:
    book = {"mean": np.zeros(3), "scale": np.ones(3), "codes.0": BOOK["codes.0"], "codes.1": np.array([[-1.0], [2.0]])}
    made = pair(tmp_path, MIXED, MIXED_EXAMPLE, serializer, {}, model, state=book if serializer == "codes" else None)
    for goal, note in (("open the door.", ""), ('say "é"\t\\ \x01\x7f', "🙂 x"), ("", "a" * 20), ("12.5", "end.")):
        observation = {
            "goal": goal,
            "note": note,
            "numbers": [0.25, -1e-9],
            "level": 3,
            "extra": [True, False],
            "more": 1,
        }
        assert made.c.act(observation) == made.python.act(observation)
        assert made.c.text == written(made, observation)
    for wrong, message in (
        ({"goal": 1}, 'goal": expected a string'),
        ({"goal": "x" * 31}, "at most 30 characters"),
        ({"level": 200}, "expected integers in the range"),
        ({"level": 0.5}, "expected integers in the range"),
        ({"numbers": [[0, 0]]}, r'numbers": expected 2 numbers, got \[\[0, 0\]\]'),
        ({"extra": [2, 0]}, "expected integers in the range"),
    ):
        with pytest.raises(ValueError, match=message):
            made.c.act({**observation, **wrong})
        with pytest.raises(UsageError):
            made.python.act({**observation, **wrong})
    with pytest.raises(ValueError, match='the key "note" is missing'):
        made.c.act({name: value for name, value in observation.items() if name != "note"})


def test_tuples_are_lists(tmp_path, model) -> None:
    spec = attrs.evolve(MIXED, texts=(), fields=MIXED.fields[:2], parts=(("arm", "[1]"), ("arm", "[0]")))
    example = np.zeros(1, [("arm", [("[0]", "f4"), ("[1]", "f4")])])
    made = pair(tmp_path, spec, example, "json", {}, model)
    observation = {"arm": [0.25, 0.75]}
    assert made.c.act(observation) == made.python.act(observation)
    assert made.c.text == '{"numbers.0": 0.750, "numbers.1": 0.250}'
    with pytest.raises(ValueError, match="expected a list of its 2 parts"):
        made.c.act({"arm": [0.25]})


def test_the_last_states_are_read_until_the_episode_ends(tmp_path, model) -> None:
    made = pair(tmp_path, CARTPOLE, FLOAT4, "compact", {}, model, history=4, history_tokens=150)
    episode = made.python.episode()
    for index, observation in enumerate(states(20)):
        if index in (0, 9):
            episode.reset()
            assert made.c.act_json(b" null ") == "null"
        with pytest.raises(ValueError, match="finite"):
            made.c.act_json(b"[1e999, 0, 0, 0]")
        assert made.c.act(observation.tolist()) == episode.act(observation)
    assert 1 < made.c.text.count("\n") + 1 <= 4


def test_vectors_of_the_last_states_are_side_by_side(tmp_path) -> None:
    box = np.full(2, -0.3, np.float32), np.full(2, 0.4, np.float32)
    made = pair(tmp_path, CARTPOLE, FLOAT4, "vector", history=3, box=box)
    episode = made.python.episode()
    for observation in states(12):
        np.testing.assert_allclose(made.c.act(observation.tolist()), episode.act(observation), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "backbone",
    [
        {"pooling": "last"},
        {"pooling": "field"},
        {"pooling": "field", "projection": 100},
        {"pooling": "field", "chunk": 3},
        {"pooling": "field", "chunk": 2, "projection": 100},
        {"pooling": "field", "directions": DIRECTIONS},
        {"pooling": "field", "chunk": 3, "directions": DIRECTIONS},
        {"bits": "1.6", "layers": 1},
    ],
    ids=str,
)
def test_every_pooling_gives_the_actions_of_python(tmp_path, model, backbone) -> None:
    made = pair(tmp_path, CARTPOLE, FLOAT4, "values", {"units": UNITS}, {**model, **backbone}, outputs=5)
    for observation in states(40):
        assert made.c.act(observation.tolist()) == made.python.act(observation)


def test_a_number_in_a_text_is_one_too_many_for_field(tmp_path, model) -> None:
    made = pair(tmp_path, MIXED, MIXED_EXAMPLE, "compact", {}, {**model, "pooling": "field"})
    observation = {"goal": "go", "note": "é", "numbers": [0.5, 0], "level": 1, "extra": [0, 0]}
    assert made.c.act(observation) == made.python.act(observation)
    with pytest.raises(ValueError, match="expected 3 numbers in a text, got 4"):
        made.c.act({**observation, "note": "at 5"})


@pytest.mark.parametrize(("format", "backbone"), [("int8", {}), ("fp32", {}), ("bitnet", {"lora_rank": 2})], ids=str)
def test_other_formats_and_adapters(tmp_path, model, format, backbone) -> None:
    made = pair(tmp_path, CARTPOLE, FLOAT4, "compact", {}, {**model, **backbone}, format=format, outputs=5)
    for observation in states(20):
        assert made.c.act(observation.tolist()) == made.python.act(observation)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (np.float32([-2]), np.float32([2])),
        (np.full((2, 3), -np.inf, np.float32), np.full((2, 3), 0.25, np.float32)),
        (np.full(3, -0.1), np.full(3, 0.1)),
        (np.int64([-1, 0, 2]), np.int64([1, 0, 3])),
        (np.zeros(3, np.uint8), np.full(3, 255, np.uint8)),
        (np.float32(-1), np.float32(1)),
    ],
    ids=lambda bound: f"{bound.dtype}{list(bound.shape)}",
)
def test_continuous_actions_are_clipped_and_rounded(tmp_path, model, low, high) -> None:
    made = pair(tmp_path, CARTPOLE, FLOAT4, "compact", {}, model, box=(low, high))
    for observation in states(30):
        expected, found = made.python.act(observation), np.array(made.c.act(observation.tolist()))
        assert found.shape == np.shape(expected)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
        if low.dtype.kind != "f":
            assert (found == expected).all()


def test_continuous_actions_have_the_bits_of_the_learner(tmp_path, model) -> None:
    """Of the network that is trained; NumPy's product of the same weights rounds otherwise."""
    box = np.full(6, -np.inf, np.float32), np.full(6, np.inf, np.float32)
    made = pair(tmp_path, CARTPOLE, FLOAT4, "compact", {}, model, box=box)
    network: Network = made.python.policy.network
    flat = np.concatenate([part for weights, biases in network.layers for part in (weights.T.ravel(), biases)])
    widths = [len(network.mean), *(len(biases) for _, biases in network.layers)]
    engine = EngineNetwork(EngineLearner(), widths, 1, flat.astype(np.float32))
    for observation in states(20):
        features = made.python.reader(observation[None]).features
        standard = ((features - network.mean) / network.std).clip(-network.limit, network.limit)
        np.testing.assert_array_equal(np.float32(made.c.act(observation.tolist())), engine.outputs(standard)[0])


def test_masked_actions_are_not_taken(tmp_path, model) -> None:
    example = np.zeros(1, [("observation", "f4", (4,)), ("action_mask", "i1", (3,))])
    example["action_mask"] = 1
    made = pair(tmp_path, CARTPOLE, example, "compact", {}, model)
    rng = np.random.default_rng(0)
    for state in states(40):
        mask = rng.integers(0, 2, 3)
        mask[rng.integers(3)] = 1
        observation = {"observation": state.tolist(), "action_mask": mask.tolist()}
        expected = made.python.act(observation)
        assert made.c.act(observation) == expected
        assert made.c.act_numbers(state.astype(float), mask) == [expected]
    with pytest.raises(ValueError, match="forbids every action"):
        made.c.act({"observation": [0, 0, 0, 0], "action_mask": [0, 0, 0]})


def test_numbers_are_rounded_to_the_type_of_the_environment(tmp_path, model) -> None:
    """As NumPy does: integers beyond 2^53 once, and once with fractions beside them."""
    made = pair(tmp_path, CARTPOLE, FLOAT4, "compact", {"decimals": 9}, model)
    for state in (
        [2**60 + 2**36 + 1, 0, 0, 1],
        [2**60 + 2**36 + 1, 0, 0, 1.5],
        [True, False, 1, 0.1],
        [1e-46, -1e-46, 0, 0],
        [10**20, -(10**30), 2**63, 2**64 - 1],
    ):
        made.c.act(state)
        assert made.c.text == written(made, np.asarray(np.asarray(state).astype(np.float32)))


@pytest.mark.parametrize("kind", ["i1", "u1", "i8", "u8"])
def test_integers_end_where_those_of_python_do(tmp_path, kind) -> None:
    made = pair(tmp_path, CARTPOLE, np.zeros((1, 4), kind), "vector")
    for size in (7, 8, 63, 64):
        ends = [2**size, -(2**size)]
        for number in [*ends, *(end - 1 for end in ends), *(end + 1 for end in ends), *map(float, ends)]:
            line, answers = json.dumps([0, 0, 0, number]), []
            for agent in (made.python, made.c):
                try:
                    answers.append(agent.act(json.loads(line)))
                except (ValueError, UsageError):
                    answers.append(None)
            assert answers[0] == answers[1], line
            inside = np.iinfo(kind).min <= number <= np.iinfo(kind).max
            assert (answers[0] is not None) is inside, line


def test_any_number_of_threads_and_instruction_set_gives_the_same(tmp_path, model) -> None:
    box = np.full(2, -9, np.float32), np.full(2, 9, np.float32)
    made = pair(tmp_path, CARTPOLE, FLOAT4, "json", {}, model, box=box)
    others = [CAgent(made.files[1], threads=2), CAgent(made.files[1], isa="scalar")]
    for state in states(10).tolist():
        assert all(each.act(state) == made.c.act(state) for each in others)
    with pytest.raises(ValueError, match="this CPU has no instruction set sse9"):
        CAgent(made.files[1], isa="sse9")


# ---- what cannot be exported ----


def test_what_cannot_run_without_python_is_refused_in_words(tmp_path, model) -> None:
    def refused(words: str, *arguments, **named) -> None:
        with pytest.raises(UsageError, match=words):
            pair(tmp_path, *arguments, **named)
        assert not (tmp_path / "agent.gguf").exists()

    grid = ObservationSpec("MiniGrid-Empty-5x5-v0", grid=True)
    refused('serializer "grid" cannot be said as pieces.*json, compact', grid, FLOAT4, "grid", {}, model)
    refused("natural begins texts with a capital", MIXED, MIXED_EXAMPLE, "natural", {}, model)
    refused("projection with pooling mean", CARTPOLE, FLOAT4, "json", {}, {**model, "projection": 9})
    refused("observe float32 or float64", CARTPOLE, FLOAT4.astype(np.float16), "json", {}, model)
    half = np.zeros(1, np.float16), np.ones(1, np.float16)
    refused("actions of float16", CARTPOLE, FLOAT4, "json", {}, model, box=half)
    other = TinyModel(width=48, ffn=80, heads=3, kv_heads=1, blocks=1)
    path = other.write(tmp_path / "gpt2.gguf", changes={"tokenizer.ggml.pre": "gpt-2"})
    refused("tokenizer cannot run without Python", CARTPOLE, FLOAT4, "json", {}, {"model": str(path)})


def test_a_form_that_is_not_what_is_written_is_refused(tmp_path, model, monkeypatch) -> None:
    monkeypatch.setattr(Compact, "form", lambda self: ["x=", Number(0, Printed(".2f"))])
    with pytest.raises(UsageError, match=r'serializer "compact" writes \'x=0.000.* by its form\(\) \'x=0.00\''):
        pair(tmp_path, CARTPOLE, FLOAT4, "compact", {}, model)


# ---- what is no agent ----


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, model) -> Path:
    """The file of a small agent."""
    return pair(tmp_path_factory.mktemp("tiny"), CARTPOLE, FLOAT4, "compact", {}, model).files[1]


def test_files_that_are_no_agents(tmp_path, model, tiny) -> None:
    for name, data, message in (
        ("empty", b"", "is not a GGUF file"),
        ("text", b"hello" * 100, "export one with bitrl export RUN --out FILE.gguf --c"),
        ("model", Path(model["model"]).read_bytes(), "is a model, not an agent"),
        ("python", (tiny.parent / "agent.safetensors").read_bytes(), "is not a GGUF file, as agents for C are"),
        ("cut", tiny.read_bytes()[:-5000], "is truncated or damaged"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            CAgent(tmp_path / name)
    with pytest.raises(ValueError, match="cannot be opened: No such file"):
        CAgent(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a file"):
        CAgent(tmp_path)
    with pytest.raises(UsageError, match="run it with build/bitrl-act"):
        bitrl.load_agent(tiny)


def test_every_changed_byte_is_found(tmp_path, tiny) -> None:
    data, rng = tiny.read_bytes(), np.random.default_rng(0)
    for place in [*rng.integers(0, 4096, 40), *rng.integers(0, len(data), 60)]:
        changed = bytearray(data)
        changed[place] ^= 1 << rng.integers(8)
        (tmp_path / "agent.gguf").write_bytes(changed)
        with pytest.raises(ValueError, match=r"."):
            CAgent(tmp_path / "agent.gguf")


def parts_of(path: Path):
    """The keys of an agent's file, its tensors, and its plan."""
    from bitrl.plugins.backbones.portable import _keys, _tensors

    file = ModelFile(path)
    found = file.metadata()
    keys = {name: value for name, value in found.items() if name.startswith("bitrl.agent")}
    return {**keys, **_keys(file)}, dict(_tensors(file, 99)), json.loads(found["bitrl.agent"])


CHANGES = [
    {"format": 2}, {"format": None}, {"history": 0}, {"history": 1e9}, {"observation": []}, {"observation": [{}]},
    {"text": [5]}, {"text": [{"number": 4}]}, {"text": [{"number": -1}]}, {"text": [{"text": 0}]},
    {"text": [{"code": 0}]}, {"text": [{"number": 0, "format": "%n"}]}, {"text": [{"number": 0, "format": ".99999f"}]},
    {"text": [{"number": 0, "short": 2, "offset": 0, "scale": 0}]}, {"text": [{"number": 0, "bin": {}}]},
    {"text": [{"number": 0, "words": ["a"]}]}, {"model": None}, {"model": {}}, {"network": {}},
    {"network": {"widths": [48, 3], "limit": 10}}, {"network": {"widths": [47, 24, 3], "limit": 10}},
    {"network": {"widths": [48, 1 << 20, 1 << 20], "limit": 10}}, {"action": {}}, {"action": {"kind": "continuous"}},
    {"action": {"kind": "continuous", "type": "float32", "shape": [4], "low": [0] * 4, "high": [1] * 4}},
    {"action": {"kind": "codebook", "type": "float32", "shape": [3], "low": [0] * 3, "high": [1] * 3, "each": 1}},
    {"action": {"kind": "continuous", "type": "integer", "shape": [3], "low": [1e308] * 3, "high": [1.5e308] * 3}},
    {"codebook": {"mean": [0] * 4, "scale": [1] * 4, "widths": [4], "counts": [1 << 40]}},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_plans_that_cannot_be(tmp_path, tiny, change) -> None:
    keys, tensors, plan = parts_of(tiny)
    keys["bitrl.agent"] = json.dumps({**plan, **change})
    (tmp_path / "agent.gguf").write_bytes(b"".join(gguf_bytes(keys, tensors)))
    with pytest.raises(ValueError, match=r"is damaged|another version of bitrl|fails on its own example|lacks"):
        CAgent(tmp_path / "agent.gguf")


@pytest.mark.parametrize("wrong", [{"directions": 2}, {"directions": -1}, {"directions": 1 << 40}, {"columns": 9}, {}])
def test_directions_that_do_not_fit_the_model(tmp_path, model, wrong) -> None:
    made = pair(tmp_path, CARTPOLE, FLOAT4, "json", {}, {**model, "pooling": "field", "directions": DIRECTIONS})
    keys, tensors, plan = parts_of(made.files[1])
    keys["bitrl.agent"] = json.dumps({**plan, "model": {**plan["model"], **wrong}})
    if not wrong:
        del keys["bitrl.agent.directions"]
    (tmp_path / "agent.gguf").write_bytes(b"".join(gguf_bytes(keys, tensors)))
    with pytest.raises(ValueError, match=r"is damaged|lacks"):
        CAgent(tmp_path / "agent.gguf")


def test_weights_that_are_not_finite_or_of_another_shape(tmp_path, tiny) -> None:
    keys, tensors, _ = parts_of(tiny)

    def refused(message: str, **changed) -> None:
        (tmp_path / "agent.gguf").write_bytes(b"".join(gguf_bytes(keys, {**tensors, **changed})))
        with pytest.raises(ValueError, match=message):
            CAgent(tmp_path / "agent.gguf")

    refused("agent.mean is not finite", **{"agent.mean": np.full(48, np.nan, np.float32)})
    refused("expected 48 numbers as agent.std, got 5", **{"agent.std": np.ones(5, np.float32)})
    refused("agent.std is not positive", **{"agent.std": np.zeros(48, np.float32)})
    del tensors["blk.0.attn_q.weight"]
    refused("lacks the tensor blk.0.attn_q.weight")


def test_an_agent_for_c_begins_with_its_plan(model, tiny) -> None:
    assert c_agents.is_one(tiny)
    assert not c_agents.is_one(Path(model["model"]))
    assert struct.unpack("<IQQ", tiny.read_bytes()[4:24])[0] == 3
    assert ModelFile(tiny).verify() == "sealed"
