"""Generating: logits against a float64 twin, sampling against numpy, kept sequences against whole ones, new weights."""

import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_models import TinyModel

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine, instruction_sets
from bitrl.plugins.backbones.engine.generation import Generated, Sequences, exact_logprobs
from bitrl.plugins.backbones.files.model_file import ModelFileError

SHAPE = {"width": 48, "ffn": 80, "blocks": 2, "heads": 4, "kv_heads": 2, "vocabulary": 270, "weights": "F32"}
PROMPTS = [[5, 9, 200], [7], [31, 8, 8, 40, 99, 250, 3, 1, 0, 269], [5, 9, 200]]


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return TinyModel(**SHAPE)


@pytest.fixture(scope="module")
def path(model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.write(tmp_path_factory.mktemp("model") / "model.gguf")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def twin_logits(model: TinyModel, tokens: list[int], format: str) -> np.ndarray:
    """Logits after the last token, float64 [vocabulary]; the head of a model of codes is int8."""
    x = model.forward(tokens, format)[-1][-1]
    x = x / np.sqrt((x * x).mean() + model.eps) * model.vectors["output_norm.weight"]
    head = model.embedding.astype(np.float64)
    if format == "fp32":
        return head @ x.astype(np.float32)
    step = np.abs(head).max(1, keepdims=True) / 127
    s = 127 / max(np.abs(x).max(), 1e-5)
    return (np.round(head / step) * step) @ np.round(x * s) / s


def same(a: list[Generated], b: list[Generated]) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.logprobs, other.logprobs)
        np.testing.assert_array_equal(one.model_logprobs, other.model_logprobs)


def by_steps(engine: Engine, prompts: list[list[int]], max_tokens: int, *, seed: int, stop=(), **sampling) -> list:
    """What `generate` does, a step at a time and each sequence by itself: a list of (token, logprob, model_logprob)."""
    how = ffi.new("bitrl_sampling *", {"temperature": 1.0, "top_p": 1.0} | sampling)
    sequences, found = Sequences(engine), []
    for i, prompt in enumerate(prompts):
        stream, rows = np.random.Generator(np.random.Philox(key=[seed, i])), []
        (cache,), logits = sequences.read([prompt], max_tokens)
        while not rows or (len(rows) < max_tokens and rows[-1][0] not in stop):
            if rows:
                sequences.extend([cache], [[rows[-1][0]]], logits)
            rows.append([column[0] for column in sequences.sample(logits, how, np.array([stream.random()]))])
        found.append(rows)
    return found


BATCH = [PROMPTS[2], [7], PROMPTS[0], [7], [7], PROMPTS[2], *([i, 2 * i] for i in range(9))]


@pytest.mark.parametrize(
    ("format", "sampling"),
    [
        ("fp32", {}),
        ("int8", {"temperature": 0.7}),
        ("int4", {"temperature": 1.3, "top_k": 9}),
        ("ternary", {"top_p": 0.8}),
        ("bf16", {"temperature": 0.9, "top_k": 50, "top_p": 0.9}),
        ("fp32", {"temperature": 0.0}),
    ],
)
def test_sequences_that_come_and_go_are_those_that_go_on_alone(path: Path, format: str, sampling: dict) -> None:
    engine = Engine(path, format, threads=2)
    free = by_steps(engine, BATCH, 12, seed=4, **sampling)
    stop = [free[1][3][0], free[7][0][0], free[8][6][0]]  # sequences end at several steps, one at its first token
    want = by_steps(engine, BATCH, 12, seed=4, stop=stop, **sampling)
    assert len({len(rows) for rows in want}) > 1
    for slots in (1, 4, 64):
        for threads in (1, 3):
            got = Engine(path, format, threads=threads).generate(BATCH, 12, seed=4, stop=stop, slots=slots, **sampling)
            for one, rows in zip(got, want, strict=True):
                tokens, logprobs, model_logprobs = zip(*rows, strict=True)
                assert one.tokens.tolist() == list(tokens)
                assert one.logprobs.tolist() == list(logprobs)
                assert one.model_logprobs.tolist() == list(model_logprobs)
                assert one.kept_tokens is None


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.7), (40, 0.6)])
def test_kept_tokens_are_those_that_could_have_been_chosen(
    model: TinyModel, path: Path, top_k: int, top_p: float
) -> None:
    engine = Engine(path, "fp32", threads=2)
    made = engine.generate(BATCH, 6, temperature=1.5, top_k=top_k, top_p=top_p, seed=2, slots=3, kept=True)
    for prompt, one in zip(BATCH, made, strict=True):
        tokens = list(prompt)
        assert len(one.kept_counts) == len(one.tokens)
        kept = np.split(one.kept_tokens, np.cumsum(one.kept_counts)[:-1])
        for token, logprob, ids in zip(one.tokens, one.logprobs, kept, strict=True):
            want = truncated(twin_logits(model, tokens, "fp32"), 1.5, top_k, top_p)
            np.testing.assert_array_equal(ids, np.flatnonzero(want))
            assert logprob == pytest.approx(np.log(want[token]), abs=2e-5)
            tokens.append(int(token))


def test_where_nothing_is_cut_off_nothing_is_kept(path: Path) -> None:
    for settings in ({}, {"temperature": 0.0, "top_k": 3}):
        (one,) = Engine(path, threads=1).generate([[1]], 3, kept=True, **settings)
        assert one.kept_tokens is None
        assert one.kept_counts is None


@pytest.mark.parametrize("format", ["fp32", "bf16", "int8", "ternary"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_of_given_texts_are_those_of_generating_them(
    path: Path, format: str, temperature: float
) -> None:
    engine = Engine(path, format, threads=2)
    made = engine.generate(BATCH, 40, temperature=temperature, seed=8)
    completions = [one.tokens[: n % 41].tolist() for n, one in enumerate(made, 37)]  # also of 0 tokens, and of 1
    assert {0, 1, 40} <= {len(rest) for rest in completions}
    for other in (engine, Engine(path, format, threads=1, isa="scalar")):
        found = exact_logprobs(Sequences(other), BATCH, completions, temperature)
        for got, one, rest in zip(found, made, completions, strict=True):
            np.testing.assert_array_equal(got, one.logprobs[: len(rest)])
    assert exact_logprobs(Sequences(engine), [], []) == []


def test_texts_beyond_one_pass_have_the_same_log_probabilities(path: Path) -> None:
    engine = Engine(path, "fp32", threads=2)
    long = np.random.default_rng(0).integers(0, 270, (4, 400)).tolist()  # more tokens than go through the model at once
    prompts, rest = [text[:n] for text, n in zip(long, (1, 300, 399, 1), strict=True)], [text[-1:] for text in long]
    rest[0] = long[0][1:]
    alone = [exact_logprobs(Sequences(engine), [a], [b])[0] for a, b in zip(prompts, rest, strict=True)]
    for got, want in zip(exact_logprobs(Sequences(engine), prompts, rest), alone, strict=True):
        np.testing.assert_array_equal(got, want)


def test_ctrl_c_ends_generating(path: Path) -> None:
    engine = Engine(path, "fp32", threads=2)
    main = threading.get_ident()

    def interrupt() -> None:
        while not engine.lock.locked():  # which it is as long as the engine generates
            time.sleep(0.001)
        time.sleep(0.1)  # by then it has begun, also where other work goes on; it takes seconds
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sender = threading.Thread(target=interrupt)
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            engine.generate([[1]] * 200, 500, slots=4)
        assert "bitrl_go_on" in [entry.name for entry in caught.traceback]  # between two steps
    finally:
        sender.join()
        signal.signal(signal.SIGINT, before)
    same(engine.generate(PROMPTS, 4), Engine(path, "fp32", threads=1).generate(PROMPTS, 4))


@pytest.mark.parametrize("format", ["fp32", "ternary", "int8"])
def test_every_token_has_the_log_probability_that_the_twin_gives_it(model: TinyModel, path: Path, format: str) -> None:
    engine = Engine(path, format, threads=2)
    for prompt, generated in zip(PROMPTS, engine.generate(PROMPTS, 12, seed=3), strict=True):
        tokens = list(prompt)
        assert len(generated.tokens) == 12
        for token, logprob, model_logprob in zip(
            generated.tokens, generated.logprobs, generated.model_logprobs, strict=True
        ):
            want = log_softmax(twin_logits(model, tokens, format))[token]
            assert logprob == pytest.approx(want, abs=2e-5)
            assert model_logprob == pytest.approx(logprob, abs=1e-12)
            tokens.append(int(token))


@pytest.mark.parametrize("format", ["fp32", "ternary", "bf16"])
def test_tokens_do_not_depend_on_threads_instruction_set_or_neighbours(path: Path, format: str) -> None:
    settings = {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "seed": 1}
    want = Engine(path, format, threads=1, isa="scalar").generate(PROMPTS, 9, **settings)
    for isa in instruction_sets():
        engine = Engine(path, format, threads=3, isa=isa)
        same(engine.generate(PROMPTS, 9, **settings), want)
        same(engine.generate(PROMPTS[:2], 9, **settings), want[:2])


def test_equal_prompts_are_continued_apart(path: Path) -> None:
    first, _, _, last = Engine(path, threads=1).generate(PROMPTS, 20, seed=0)
    assert first.tokens.tolist() != last.tokens.tolist()


def test_temperature_zero_takes_the_likeliest(model: TinyModel, path: Path) -> None:
    (generated,) = Engine(path, "fp32", threads=1).generate([PROMPTS[0]], 10, temperature=0)
    tokens = list(PROMPTS[0])
    for token in generated.tokens:
        assert token == np.argmax(twin_logits(model, tokens, "fp32"))
        tokens.append(int(token))
    assert not generated.logprobs.any()
    assert (generated.model_logprobs < 0).all()


def test_a_stop_token_ends_a_sequence_and_is_kept(path: Path) -> None:
    engine = Engine(path, "fp32", threads=1)
    free = engine.generate(PROMPTS, 30, seed=5)
    stop = int(free[1].tokens[4])
    for one, whole in zip(engine.generate(PROMPTS, 30, seed=5, stop=[stop]), free, strict=True):
        where = np.flatnonzero(whole.tokens == stop)
        n = where[0] + 1 if len(where) else 30
        np.testing.assert_array_equal(one.tokens, whole.tokens[:n])


def sample(
    engine: Engine, logits: np.ndarray, random: np.ndarray, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
):
    """Tokens, log-probabilities as sampled and under the model; logits: [vocabulary], a draw for each of random."""
    rows = np.ascontiguousarray(np.tile(logits, (len(random), 1)), np.float32)
    tokens, logprobs, models = np.empty(len(random), np.int32), np.empty(len(random)), np.empty(len(random))
    how = ffi.new("bitrl_sampling *", {"temperature": temperature, "top_k": top_k, "top_p": top_p})
    arrays = (
        ffi.from_buffer(kind, a)
        for kind, a in zip(("int32_t[]", "double[]", "double[]"), (tokens, logprobs, models), strict=True)
    )
    random = np.ascontiguousarray(random, np.float64)
    error = ffi.new("char[256]")
    status = lib.bitrl_sample(
        engine.session,
        ffi.from_buffer("float[]", rows),
        *rows.shape,
        how,
        ffi.from_buffer("double[]", random),
        *arrays,
        error,
    )
    assert status == 0, ffi.string(error)
    return tokens, logprobs, models


def truncated(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The distribution that is left, the slow way: float64 [vocabulary]."""
    p = np.exp(log_softmax(logits.astype(np.float64) / temperature))
    order = np.lexsort((np.arange(len(p)), -logits))
    kept = order[: top_k or len(p)]
    p[np.setdiff1d(order, kept)] = 0
    p /= p.sum()
    reached = np.cumsum(p[kept])
    kept = kept[: np.searchsorted(reached, top_p) + 1]
    p[np.setdiff1d(order, kept)] = 0
    return p / p.sum()


@pytest.mark.parametrize("size", [1, 57, 2500])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (20, 0.6), (1, 0.5), (1000, 0.99)])
def test_tokens_come_as_often_as_they_should(
    path: Path, size: int, temperature: float, top_k: int, top_p: float
) -> None:
    logits = np.random.default_rng(top_k).normal(size=size).astype(np.float32) * 2
    logits[7 % size] = logits[3 % size]  # a tie
    n = 3_000
    tokens, logprobs, models = sample(
        Engine(path, threads=2), logits, (np.arange(n) + 0.5) / n, temperature, top_k, top_p
    )
    want = truncated(logits, temperature, top_k, top_p)
    np.testing.assert_allclose(np.bincount(tokens, minlength=size) / n, want, atol=2 / n)
    np.testing.assert_allclose(logprobs, np.log(want[tokens]), atol=1e-9)
    np.testing.assert_allclose(models, log_softmax(logits.astype(np.float64))[tokens], atol=1e-9)


def test_sampling_survives_extreme_logits(path: Path) -> None:
    tokens, logprobs, _ = sample(
        Engine(path, threads=1), np.array([-1e30, 3e38, -3e38], np.float32), np.array([0.0, 0.999999]), 1e-3
    )
    assert tokens.tolist() == [1, 1]
    assert logprobs.tolist() == [0, 0]


@pytest.mark.parametrize("temperature", [1e-9, 1e-300, 1e-309, 5e-324])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.5), (3, 0.5)])
def test_the_lower_the_temperature_the_likelier_is_the_likeliest(
    path: Path, temperature: float, top_k: int, top_p: float
) -> None:
    logits = np.linspace(-3e38, 9, 2500, dtype=np.float32)
    logits[[5, 7]] = 10  # as likely as each other
    tokens, logprobs, _ = sample(Engine(path, threads=1), logits, np.array([0, 0.9]), temperature, top_k, top_p)
    one = top_p < 1  # the first reaches a half
    assert sorted(tokens.tolist()) == ([5, 5] if one else [5, 7])
    np.testing.assert_allclose(logprobs, 0 if one else -np.log(2), atol=1e-12)


def extend(engine: Engine, cache, tokens: list[int]) -> np.ndarray:
    logits, error = np.empty((1, engine.vocabulary), np.float32), ffi.new("char[256]")
    ids, lengths = np.array(tokens, np.int32), np.array([len(tokens)], np.uint64)
    status = lib.bitrl_extend(
        engine.session, ffi.new("bitrl_cache *[]", [cache]), ffi.from_buffer("int32_t[]", ids),
        ffi.from_buffer("uint64_t[]", lengths), 1, ffi.from_buffer("float[]", logits), error,
    )  # fmt: skip
    assert status == 0, ffi.string(error)
    return logits[0]


@pytest.mark.parametrize("architecture", ["bitnet-b1.58", "llama", "qwen3", "gemma3"])
def test_a_sequence_read_in_pieces_is_the_sequence_read_at_once(tmp_path: Path, architecture: str) -> None:
    windowed = {"window": 5, "every": 2} if architecture == "gemma3" else {}
    model = TinyModel(**SHAPE | {"architecture": architecture, "blocks": 3} | windowed)
    engine = Engine(model.write(tmp_path / "model.gguf"), "fp32", threads=2)
    engine.generate([[1]], 1)  # makes the head ready
    tokens = np.random.default_rng(0).integers(0, model.vocabulary, 90).tolist()
    caches = []
    for _ in range(2):
        cache = ffi.new("bitrl_cache **")
        assert lib.bitrl_cache_open(engine.model, 100, cache, ffi.new("char[256]")) == 0
        caches.append(ffi.gc(cache[0], lib.bitrl_cache_close))
    for first, last in ((0, 1), (1, 2), (2, 40), (40, 41), (41, 90)):
        logits = extend(engine, caches[0], tokens[first:last])
    np.testing.assert_array_equal(logits, extend(engine, caches[1], tokens))
    assert lib.bitrl_cache_cut(caches[0], 40, ffi.new("char[256]")) == 0
    np.testing.assert_array_equal(extend(engine, caches[0], tokens[40:90]), logits)


def all_weights(model: TinyModel) -> dict[str, np.ndarray]:
    """As its file holds them."""
    matrices = {name: values for name, (_, values) in model.dense.items()}
    return {**matrices, **model.vectors, "token_embd.weight": model.embedding}


@pytest.mark.parametrize("format", ["fp32", "bf16", "ternary", "ternary-1.6", "int8", "int4", "fp8"])
def test_replaced_weights_are_those_of_a_file_that_holds_them(tmp_path: Path, path: Path, format: str) -> None:
    other = TinyModel(**SHAPE, seed=1)
    fresh = Engine(other.write(tmp_path / "other.gguf"), format, threads=1)
    engine = Engine(path, format, threads=2)
    batch = [PROMPTS[2] + tail for tail in ([1, 2, 3], [4], [5, 6])]  # with a beginning in common, which is kept
    before = engine.encode(batch)
    engine.generate(PROMPTS, 2)
    engine.replace_all(all_weights(other))
    assert (engine.encode(batch) != before).any()
    np.testing.assert_array_equal(engine.encode(batch), fresh.encode(batch))
    same(engine.generate(PROMPTS, 5), fresh.generate(PROMPTS, 5))


def test_weights_that_do_not_fit_are_refused_and_change_nothing(model: TinyModel, path: Path) -> None:
    engine = Engine(path, threads=1)
    before = engine.encode(PROMPTS)
    q = model.dense["blk.0.attn_q.weight"][1]
    for name, values, problem in [
        ("blk.0.attn_q.weight", q[:-1], "48 x 48"),
        ("blk.0.attn_z.weight", q, "no weights called"),
        ("blk.7.attn_q.weight", q, "no weights called"),
        ("blk.0.attn_norm.weight", np.ones(5), "has 48 weights"),
        ("token_embd.weight", q, "270 x 48"),
        ("blk.0.attn_q.weight", np.full_like(q, np.nan), "finite"),
        ("blk.0.attn_q.weight", np.zeros((1, 2, 3)), "dimensions"),
        ("output.weight", q, "no weights called"),
    ]:
        with pytest.raises(UsageError, match=problem):
            engine.replace(name, values)
        with pytest.raises(UsageError, match=problem):  # good ones beside it, before and behind
            engine.replace_all({**all_weights(TinyModel(**SHAPE, seed=1)), name: values})
    with pytest.raises(UsageError, match="rounding_seed: expected 0 to 18446744073709551615, got -1"):
        engine.replace_all({}, rounding_seed=-1)
    np.testing.assert_array_equal(engine.encode(PROMPTS), before)


@pytest.mark.parametrize(
    ("prompts", "settings", "problem"),
    [
        ([[]], {}, "no tokens"),
        ([[1]], {"max_tokens": 0}, "max_tokens"),
        ([[1]], {"slots": 0}, "slots"),
        ([[1]], {"max_tokens": 512}, "context of 512"),
        ([[270]], {}, "vocabulary"),
        ([[-1]], {}, "vocabulary"),
        ([[2**40]], {}, "vocabulary"),
        ([[1]], {"temperature": -1.0}, "temperature"),
        ([[1]], {"temperature": float("nan")}, "temperature"),
        ([[1]], {"top_p": 0.0}, "top_p"),
        ([[1]], {"top_p": 1.5}, "top_p"),
    ],
)
def test_what_cannot_be_generated_is_said(path: Path, prompts, settings, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Engine(path, threads=1).generate(prompts, **{"max_tokens": 3, **settings})


def test_a_model_without_its_last_norm_encodes_but_does_not_generate(tmp_path: Path, model: TinyModel) -> None:
    lacking = TinyModel(**SHAPE)
    del lacking.vectors["output_norm.weight"]
    engine = Engine(lacking.write(tmp_path / "model.gguf"), threads=1)
    assert engine.encode(PROMPTS).any()
    with pytest.raises(ModelFileError, match=r"output_norm\.weight"):
        engine.generate(PROMPTS, 1)


def test_nothing_to_generate_is_an_empty_list(path: Path) -> None:
    assert Engine(path, threads=1).generate([], 3) == []


def test_a_beginning_in_common_changes_no_bit(path: Path) -> None:
    rng = np.random.default_rng(0)
    start = rng.integers(0, 270, 30).tolist()
    batches = [
        [start + rng.integers(0, 270, n).tolist() for n in (3, 0, 7, 1)],  # one text is the beginning itself
        [start[:20] + rng.integers(0, 270, n).tolist() for n in (5, 9)],  # less of it
        [start + start + rng.integers(0, 270, n).tolist() for n in (2, 4)],  # more of it
        [start, [], [3]],
        [start],
        [[], []],
        [start[:25], start[:25]],
    ]
    kept = Engine(path, threads=2)
    for pooling in ("mean", "last", "none"):
        for batch in batches:
            alone = [Engine(path, threads=1).encode([text], pooling) for text in batch]
            np.testing.assert_array_equal(kept.encode(batch, pooling), np.concatenate(alone))


@pytest.mark.parametrize("format", ["ternary", "fp32"])
def test_a_text_that_begins_like_the_one_before_gives_the_bits_that_it_has_alone(path: Path, format: str) -> None:
    """One text after another, as when an agent acts: the engine goes on from what they have in common."""
    rng = np.random.default_rng(1)
    kept, text = Engine(path, format, threads=2), rng.integers(0, 270, 30).tolist()
    for step in range(60):
        at = int(rng.integers(0, 30))
        text = text[:at] + rng.integers(0, 270, int(rng.integers(1, 40 - at))).tolist()
        fresh = Engine(path, format, threads=1)
        if step % 3 == 0:  # of which the last block computes some tokens alone
            places = np.sort(rng.permutation(len(text))[:3]).astype(np.uint64)[None]
            if len(text) < 3:
                continue
            found, expected = (each.encode_fields([text], places) for each in (kept, fresh))
        else:
            pooling = ["mean", "last", "none"][int(rng.integers(3))]
            found, expected = (each.encode([text], pooling) for each in (kept, fresh))
        np.testing.assert_array_equal(found, expected)
        if step % 10 == 9:
            batch = [[*text[:12], 1, 2], [*text[:12], 3]]
            np.testing.assert_array_equal(kept.encode(batch), np.concatenate([fresh.encode([each]) for each in batch]))
        if step % 10 == 4:
            kept.encode([[]])
