"""Training a language model: its arithmetic, its losses, what it is shown, and the file it becomes."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partialmethod
from pathlib import Path
from typing import Any

import attrs
import gguf
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from bitrl import load_backbone
from bitrl.core.errors import RunFailed, UsageError
from bitrl.plugins.algos.short_products import short_products
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import ModelFile
from bitrl.plugins.backbones.language_model import starter_path
from bitrl.plugins.backbones.tools.ridge import r_squared
from bitrl.plugins.backbones.training import products
from bitrl.plugins.backbones.training.decoder import Decoder, DecoderShape, rotary_table, rotate, squared_relu_gate
from bitrl.plugins.backbones.training.pretraining import command, measure, objective
from bitrl.plugins.backbones.training.pretraining.card import write_card
from bitrl.plugins.backbones.training.pretraining.command import (
    PretrainingRequest,
    bits_per_byte,
    check_shape,
    train_model,
    vocabulary_for,
)
from bitrl.plugins.backbones.training.pretraining.corpus import Corpus, Pairs, TextFile, TokenBatch, read_text
from bitrl.plugins.backbones.training.pretraining.device import CPU, moved
from bitrl.plugins.backbones.training.pretraining.environment_texts import CommandTexts, facts_and_numbers, sayings
from bitrl.plugins.backbones.training.pretraining.export import pack_tq2_0, read_gguf, write_gguf
from bitrl.plugins.backbones.training.pretraining.number_decoder import NumberDecoder
from bitrl.plugins.backbones.training.pretraining.start import LOOK_BACK, start
from bitrl.plugins.backbones.training.pretraining.texts import (
    FORMATS,
    invented,
    known,
    learning_policy_states,
    name_words,
    numbers_so_far,
    random_policy_states,
)
from bitrl.plugins.backbones.training.pretraining.train import batches_of, made_ahead
from bitrl.plugins.backbones.training.pretraining.vocabulary import (
    Vocabulary,
    from_its_first_number,
    number_features,
    number_tokens,
    train_vocabulary,
)
from bitrl.plugins.backbones.training.products import integer_product, normed_products, product_as_in_engine, ternarise

TINY = DecoderShape(vocab=4600, width=256, blocks=1, heads=4, kv_heads=2, ffn=256, context=128)
TEXTS = ['{"cart_position": 0.031, "pole_angle": -0.012}', "x=1.5", "The King said 3.14 and no more."]


def straight_through(x: Tensor, norm: Tensor, *weights: Tensor) -> Tensor:
    """The same layer as the equations say it, its gradient left to autograd."""
    n = x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * norm
    scale = 127 / n.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
    n = n + ((n * scale).round().clamp(-128, 127) / scale - n).detach()
    quantised = []
    for weight in weights:
        s = weight.detach().abs().mean().clamp(min=1e-5).half().float()
        quantised.append(weight + ((weight / s).round().clamp(-1, 1) * s - weight).detach())
    return n @ torch.cat(quantised).t()


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Distance between features, relative. Where a float32 rounding moves one int8 activation by a step it is about
    1e-3.
    """
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@torch.no_grad()
def features(model: Decoder, tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Mean-pooled features in torch after every block, each text by itself: [blocks, n, width]."""
    rows = [[x.mean(dim=1) for [x] in model.residuals(torch.tensor([tokenizer.encode(t).ids]))] for t in texts]
    return np.stack([torch.cat(block).numpy() for block in zip(*rows, strict=True)])


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    prose = ["the king and the queen of the sea said nothing at all, and the wind was in the north"] * 20
    return train_vocabulary(prose, TEXTS[:1], 4600)


@pytest.fixture(scope="module")
def tiny(vocabulary: Vocabulary) -> NumberDecoder:
    torch.manual_seed(3)
    return NumberDecoder(DecoderShape(vocab=len(vocabulary.tokens), width=256, blocks=3, heads=4, kv_heads=2, ffn=512))


def test_a_layer_and_its_gradient_are_those_of_the_equations() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(5, 256), torch.rand(256) + 0.5, torch.randn(64, 256) * 0.02, torch.randn(32, 256)]
    results = []
    for layer in (lambda x, norm, *w: normed_products(x, norm, 1e-5, "ternary-f16", *w), straight_through):
        x, norm, a, b = (t.clone().requires_grad_() for t in tensors)
        y = layer(x, norm, a, b)
        (y * torch.arange(96.0).cos()).sum().backward()
        results.append([y.detach(), x.grad, norm.grad, a.grad, b.grad])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_integer_products_are_exact() -> None:
    generator = torch.Generator().manual_seed(1)
    q = torch.randint(-127, 128, (37, 768), generator=generator, dtype=torch.int8)
    t = torch.randint(-1, 2, (50, 768), generator=generator, dtype=torch.int8)
    assert torch.equal(integer_product(q, t.t()).double(), q.double() @ t.double().t())


def test_where_float32_may_be_rounded_gradients_are_and_the_ternary_products_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "short_products_are_fast", lambda: True)
    torch.manual_seed(0)
    tensors = [torch.randn(40, 256), torch.rand(256) + 0.5, torch.randn(64, 256) * 0.02]
    for format in ("ternary-f16", "fp32"):
        results = []
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            try:
                x, norm, a = (t.clone().requires_grad_() for t in tensors)
                y = normed_products(x, norm, 1e-5, format, a)
                (y * torch.arange(64.0).cos()).sum().backward()
            finally:
                torch.set_float32_matmul_precision("highest")
            results.append([y.detach(), x.grad, norm.grad, a.grad])
        assert torch.equal(results[0][0], results[1][0]) == (format == "ternary-f16")
        for exact, rounded in zip(*results, strict=True):
            # bfloat16 has 8 bits: three roundings of 1/512 at most.
            assert (exact - rounded).norm() < 3 / 512 * exact.norm()


def test_where_float32_may_be_rounded_the_engines_products_are_not_and_their_gradients_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "short_products_are_fast", lambda: True)
    torch.manual_seed(0)
    tensors = [torch.randn(40, 256), torch.randn(64, 256) * 0.02, torch.randn(32, 256) * 0.02]
    results = []
    for context in (nullcontext, short_products):
        with context():
            x, a, b = (t.clone().requires_grad_() for t in tensors)
            y = product_as_in_engine(x, "fp32", a, b)
            (y * torch.arange(96.0).cos()).sum().backward()
        results.append([y.detach(), x.grad, a.grad, b.grad])
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.equal(results[0][0], results[1][0])
    for exact, rounded in zip(*results, strict=True):
        assert (exact - rounded).norm() < 3 / 512 * exact.norm()
    assert not torch.equal(results[0][1], results[1][1])


def test_what_would_be_slow_in_bfloat16_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 8)
    torch.set_float32_matmul_precision("medium")
    try:
        for capability, expected in (("AVX2", torch.float32), ("AVX512", torch.bfloat16)):
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=capability: name)
            assert products.multiplied(x).dtype == expected
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_gate_has_the_gradient_that_finite_differences_find() -> None:
    x = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(squared_relu_gate, x)


def test_ternary_values_and_scale() -> None:
    t, scale = ternarise(torch.tensor([[1.0, -0.2, 0.6], [-3.0, 0.1, 0.5]]))
    assert scale.item() == np.float16(5.4 / 6)
    assert t.tolist() == [[1, 0, 1], [-1, 0, 1]]


def test_padding_and_company_do_not_change_a_text(tiny: NumberDecoder) -> None:
    tokens = torch.randint(0, 256, (3, 9))
    together = list(tiny.residuals(tokens))
    for row, length in enumerate((9, 4, 6)):
        for [a], [b] in zip(together, tiny.residuals(tokens[row : row + 1, :length]), strict=True):
            assert torch.allclose(a[row, :length], b[0], atol=1e-5)


def test_parts_of_different_lengths_are_computed_at_once_as_if_alone(tiny: NumberDecoder) -> None:
    parts = [torch.randint(0, 256, shape) for shape in ((3, 9), (2, 4), (1, 12))]
    together = list(tiny.residuals(*parts))
    for place, part in enumerate(parts):
        for among, [alone] in zip(together, tiny.residuals(part), strict=True):
            assert torch.allclose(among[place], alone, atol=1e-5)


def test_the_twin_is_the_same_model_without_quantisation() -> None:
    torch.manual_seed(0)
    x, norm, a, b = torch.randn(5, 256), torch.rand(256) + 0.5, torch.randn(64, 256), torch.randn(32, 256)
    wanted = F.rms_norm(x, (256,), norm, 1e-5) @ torch.cat([a, b]).t()
    assert torch.allclose(normed_products(x, norm, 1e-5, "fp32", a, b), wanted, atol=1e-4)
    same = [dict(NumberDecoder(attrs.evolve(TINY, format=each)).named_parameters()) for each in ("ternary-f16", "fp32")]
    assert {name: p.shape for name, p in same[0].items()} == {name: p.shape for name, p in same[1].items()}


def test_a_written_twin_computes_the_same_in_the_engine(vocabulary: Vocabulary, tmp_path: Path) -> None:
    torch.manual_seed(3)
    shape = DecoderShape(vocab=len(vocabulary.tokens), width=256, blocks=2, heads=4, kv_heads=2, ffn=512, format="fp32")
    write_gguf(tmp_path / "twin.gguf", NumberDecoder(shape), vocabulary, {"name": "twin"})
    back, tokenizer = read_gguf(tmp_path / "twin.gguf")
    assert not back.shape.ternary
    theirs = Engine(tmp_path / "twin.gguf", "fp32").encode([tokenizer.encode(text).ids for text in TEXTS], "mean")
    assert relative(features(back, tokenizer, TEXTS)[-1], theirs) < 1e-5


def test_a_full_disk_leaves_nothing_half_written(
    tiny: NumberDecoder, vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(writer: Any) -> None:
        raise OSError("64 requested and 12 written")  # as numpy says it

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(RunFailed, match="no space left on the disk"):
        write_gguf(tmp_path / "tiny.gguf", tiny, vocabulary, {})
    assert list(tmp_path.iterdir()) == []


def test_packing_is_what_gguf_unpacks() -> None:
    ternary = np.random.default_rng(0).integers(-1, 2, (6, 768)).astype(np.float32)
    packed = pack_tq2_0(ternary, 0.0123)
    unpacked = gguf.dequantize(packed, gguf.GGMLQuantizationType.TQ2_0)
    np.testing.assert_array_equal(unpacked, ternary * np.float32(np.float16(0.0123)))


def test_a_written_model_is_sealed_and_computes_the_same_in_the_engine(
    tiny: NumberDecoder, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny, vocabulary, {"name": "tiny"})
    assert ModelFile(path).verify() == "sealed"
    back, tokenizer = read_gguf(path)
    for name, parameter in back.named_parameters():
        original = dict(tiny.named_parameters())[name]
        if parameter.dim() == 2 and not name.endswith("_embd"):
            assert all(torch.equal(a, b) for a, b in zip(ternarise(parameter), ternarise(original), strict=True))
    ours = features(back, tokenizer, TEXTS)
    for layers in (1, 2, 3):
        engine = Engine(path, layers=layers)
        theirs = engine.encode([tokenizer.encode(text).ids for text in TEXTS], "mean")
        assert relative(ours[layers - 1], theirs) < 0.01
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.gguf"]


def test_the_starter_model_computes_in_torch_what_the_engine_computes() -> None:
    model, tokenizer = read_gguf(starter_path())
    ours = features(model, tokenizer, TEXTS)
    for layers in range(1, model.shape.blocks + 1):
        theirs = load_backbone("bitnet", layers=layers).encode(TEXTS)
        assert relative(ours[layers - 1], theirs) < 0.01


def test_the_starter_models_features_keep_the_numbers_of_a_state() -> None:
    """PEERS' probe through the public API: default features, CartPole's four variables as JSON."""
    [reader] = known("CartPole-v1", ["json"], seed=0)
    states = reader.uniform(np.random.default_rng(1), 4000).astype(np.float32)
    assert r_squared(load_backbone("bitnet").encode(reader.write(states)), states).mean() >= 0.98


def test_the_starter_model_is_small_and_its_states_are_short() -> None:
    assert starter_path().stat().st_size <= 16e6
    _, tokenizer = read_gguf(starter_path())
    state = '{"cart_position": 0.031, "cart_velocity": -0.520, "pole_angle": 0.012, "pole_velocity": -1.204}'
    assert len(tokenizer.encode(state).ids) <= 14


def test_a_vocabulary_writes_any_text_and_known_pieces_as_one_token(vocabulary: Vocabulary) -> None:
    tokenizer = vocabulary.tokenizer()
    for text in [*TEXTS, "naïve ☃ \x00\t\r\n", "".join(chr(i) for i in range(1, 300))]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert '{"cart_position":Ġ' in vocabulary.tokens
    assert len(vocabulary.tokens) <= 4600


SENTENCE = "The cart is left of the centre by 0.194 m, moving right at 1.110 m/s. The pole leans left by 0.085 rad."


def test_what_stands_between_the_numbers_of_a_known_text_is_one_token(tmp_path: Path) -> None:
    vocabulary = train_vocabulary(["nobody leans on the cart that leans"] * 20, [SENTENCE, TEXTS[0]], 4600)
    phrases = {"The cart is left of the centre by ", " m, moving right at ", " m/s. The pole leans left by ", " rad."}
    assert vocabulary.phrases == phrases
    write_gguf(tmp_path / "m.gguf", NumberDecoder(attrs.evolve(TINY, vocab=len(vocabulary.tokens))), vocabulary, {})
    for tokenizer in (vocabulary.tokenizer(), read_gguf(tmp_path / "m.gguf")[1]):
        cut = tokenizer.encode(SENTENCE)
        assert [token for token in cut.tokens if token in phrases] == cut.tokens[::3]
        assert len(cut.ids) == 4 + 2 * 3  # "0.1" "94" "1.1" "10" "0.0" "85"
        for text in (SENTENCE, "The pole leans left by hand, 3 m, moving right at rad.", *TEXTS):
            assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_sentences_numbers_are_asked_for_with_their_signs_as_they_are_written(vocabulary: Vocabulary) -> None:
    [reader] = known("Acrobot-v1", ["natural"], seed=0)
    made = reader.sample(np.random.default_rng(1), 6)
    corpus = Corpus([], [reader], vocabulary.tokenizer(), budget=512, context=256)
    batch = corpus._batch(made)
    assert batch.numbers is not None
    written = batch.numbers[:, :-1]
    for row, length in enumerate(batch.lengths):
        steps = written[row, : length - 1]
        # The second link's numbers stand last, and its cosine, third in the state, fourth.
        began = (~steps.isnan()).int().argmax(dim=0)
        assert began.argsort().tolist() == [0, 1, 4, 2, 3, 5]
        np.testing.assert_allclose(steps[-1], made.numbers[row, :6], atol=1e-3)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_states_of_known_environments_come_with_their_numbers(env: str, format: str) -> None:
    [reader] = known(env, [format], seed=0)
    made = reader.sample(np.random.default_rng(0), 8)
    count = len(reader.half)
    assert np.isnan(made.numbers[:, count:]).all()
    for text, numbers in zip(made.texts, made.numbers[:, :count], strict=True):
        for number in numbers:
            # What stands in the text is the number to at least three decimals, perhaps without its sign.
            assert any(f"{abs(number):.{d}f}" in text for d in (3, 4))
    twins = np.abs(made.numbers[::2, :count] - made.numbers[1::2, :count])
    assert (twins < 0.06 * reader.half).all()


def test_invented_texts_spell_their_numbers_in_order() -> None:
    made = invented(np.random.default_rng(5), groups=120, group=4)
    counts = set()
    assert any(re.search(r"[a-z]_?[0-9]_[a-z]", text) for text in made.texts)  # names with digits inside
    for text, numbers in zip(made.texts, made.numbers, strict=True):
        wanted = numbers[~np.isnan(numbers)]
        np.testing.assert_array_equal(numbers_so_far(text, [len(text)], len(wanted))[0], wanted)
        counts.add(len(wanted))
    assert min(counts) == 1
    assert max(counts) >= 12


def test_many_invented_fields_are_not_distinguished_by_a_single_word() -> None:
    """As a robot's are: every word of most of such a schema's names stands in another of its names too."""
    made = invented(np.random.default_rng(6), groups=200, group=2)
    schemas = [[set(field[field >= 0]) for field in names if (field >= 0).any()] for names in made.names]
    shared = [
        np.mean([all(any(word in other for other in names if other is not field) for word in field) for field in names])
        for names in schemas
        if len(names) >= 6
    ]
    assert 0.2 < np.mean(np.array(shared) > 0.6) < 0.6


def test_commands_are_asked_about_where_they_stand(vocabulary: Vocabulary) -> None:
    """Every pair of a batch is a text's and a command's row, with the answer that the state gives."""
    games = CommandTexts(
        ["recipe: fried egg. egg on table", "recipe: not read. salt in hand"],
        [("take egg from table",), ("drop salt",)],
        [("drop salt", "take salt"), ("take egg from table",)],
        [("take egg from table", "cook egg with stove"), ()],
        [("cook egg with oven",), ()],
    )
    corpus = Corpus([], [], vocabulary.tokenizer(), 200, 512, (), games)
    batch = corpus.choice_batch(np.random.default_rng(0))
    decode = vocabulary.tokenizer().decode
    texts, commands = (
        [decode(row[:length].tolist()) for row, length in zip(each.tokens, each.lengths, strict=True)]
        for each in (batch, batch.choices.commands)
    )
    assert set(texts) == set(games.texts)
    for pairs, yes, no in (
        (batch.choices.possible, games.possible, games.impossible),
        (batch.choices.wanted, games.wanted, games.unwanted),
    ):
        assert len(pairs.rows) > 0
        for (row, column), answer in zip(pairs.rows.tolist(), pairs.answers.tolist(), strict=True):
            assert commands[column] in (yes if answer else no)[games.texts.index(texts[row])]


def test_a_phrase_that_an_environment_always_uses_is_one_token(vocabulary: Vocabulary) -> None:
    games = CommandTexts(
        ["on counter: red hot pepper"],
        [("take red hot pepper from counter", "put knife on counter", "insert knife into fridge", "go east")],
        [()],
        [()],
        [()],
    )
    said = sayings(["SmartHome-Light", "TextWorld"], games)
    assert {" red hot pepper", " on counter", " in open fridge", " in hand"} <= set(said)
    assert {"make the", " make the", " bright enough to read"} <= set(said)
    assert not [saying for saying in said if "{" in saying or "study" in saying or " " not in saying.strip()]
    assert sayings(["BabyAI"], None) == []
    tokens = train_vocabulary(["so it goes"], TEXTS[:1], 4700, said).tokenizer()
    assert tokens.encode("red onion, red hot pepper on counter").tokens[-2:] == [" red hot pepper", " on counter"]
    assert tokens.encode("make the study bright enough to read").tokens[::3][0] == "make the"


def test_numbers_so_far_follow_a_text_as_it_is_written() -> None:
    text = '{"q1": -3.14, "b": 20}'
    ends = [7, 8, 9, 10, 11, 12, 19, 20, 22]
    so_far = numbers_so_far(text, ends, 2)
    nan = np.nan
    wanted = [[nan, nan], [0, nan], [-3, nan], [-3, nan], [-3.1, nan], [-3.14, nan], [-3.14, nan], [-3.14, 2]]
    np.testing.assert_array_equal(so_far, [*wanted, [-3.14, 20]])
    assert np.isnan(numbers_so_far(text, ends, 3)).all()


def test_every_number_up_to_999_is_two_tokens_or_three(vocabulary: Vocabulary) -> None:
    tokenizer = vocabulary.tokenizer()
    numbers = [("0.520", 2), ("-0.520", 2), ("12.345", 2), ("-99.999", 2), ("7", 1), ("-7", 1), ("512", 1)]
    for number, count in [*numbers, ("-737.25", 3), ("0.0123", 3), ("12345.6", 4)]:
        cut = tokenizer.encode(number, add_special_tokens=False)
        assert len(cut.ids) == count, cut.tokens


def test_what_a_numbers_token_says_grows_with_the_number() -> None:
    tokens = ["-12.5", "-0.5", "0.5", "3.1", "12.5", "512", "the", "x="]
    said = number_features(tokens)
    assert (np.diff(said[:6, 2]) > 0).all()  # its order of magnitude, with its sign
    assert not said[6:].any()
    assert number_features(["05"])[0].any()
    assert len(set(number_tokens())) == len(number_tokens())


def test_names_are_words_and_a_known_one_is_a_word_of_its_own() -> None:
    plain, known_one = name_words(["pole_angle"]), name_words(["pole_angle"], "known")
    assert (plain >= 0).sum() == 2
    assert (known_one >= 0).sum() == 3
    assert set(plain[0]) - {-1} < set(known_one[0])
    assert (name_words(["x12"]) >= 0).sum() == 2


def test_a_number_is_asked_for_by_its_place_where_that_is_known_and_at_every_scale_elsewhere() -> None:
    nan = float("nan")
    frames = torch.full((1, 3, 2, 2), nan)
    frames[0, 0] = torch.tensor([[0.0, 0.5], [0.025, 0.05]])
    views = objective.views(torch.tensor([[0.05, -20.0, nan]]), frames)[0]
    scales = len(objective.SCALES)
    assert views[0, : scales + 1].isnan().all()
    assert views[0, scales + 1 :].tolist() == pytest.approx([0.1, 1.0, 0.5], abs=1e-6)
    assert views[1, : scales + 1].tolist() == pytest.approx([-1, -1, -1, -0.2, -0.02, -np.log(21) / 3], abs=1e-6)
    assert views[1, scales + 1 :].isnan().all()
    assert views[2].isnan().all()


def test_a_number_is_read_by_its_name_wherever_it_stands() -> None:
    torch.manual_seed(0)
    readout = objective.Readout(8, 2)
    names = torch.from_numpy(name_words(["speed", "angle", "speed"]))[None]
    read = readout(torch.randn(1, 4, 8).expand(2, 4, 8), names)
    assert read.shape == (2, 4, 3, objective.KINDS)
    assert torch.allclose(read[:, :, 0], read[:, :, 2], atol=1e-6)
    assert not torch.equal(read[:, :, 0], read[:, :, 1])
    assert not torch.equal(read[0], read[1])  # each block has its own reading
    # Two groups of two rows: each row is read by the names of its group, also token by token.
    pooled = torch.randn(2, 4, 5, 8)
    both = readout(pooled, torch.cat([names, names.flip(1)]))
    assert torch.allclose(both[:, :2], readout(pooled[:, :2], names), atol=1e-6)
    assert torch.allclose(both[:, 2:], readout(pooled[:, 2:], names.flip(1)), atol=1e-6)


def test_facts_and_commands_are_cross_entropies_over_what_is_asked() -> None:
    nan = float("nan")
    facts = torch.tensor([[1.0, nan], [0.0, nan]])
    assert objective.fact_loss(torch.ones(3, 2, 2), torch.full((2, 2), nan)) == 0
    logits = torch.tensor([[2.0, 9.0], [-1.0, 9.0]])
    wanted = (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2
    assert objective.fact_loss(logits[None], facts).item() == pytest.approx(wanted, rel=1e-6)

    question = objective.Bilinear(4, 1)
    states, commands = torch.randn(1, 2, 4), torch.randn(1, 3, 4)
    pairs, possible = torch.tensor([[0, 0], [0, 1], [1, 2], [1, 0]]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    z = [(question.state(states)[0, s] @ question.command(commands)[0, c]).item() / 2 for s, c in pairs.tolist()]
    # A quarter of the pairs is possible: such a pair weighs 2, the others 2/3.
    wanted = (2 * np.log1p(np.exp(-z[0])) + 2 / 3 * sum(np.log1p(np.exp(x)) for x in z[1:])) / 4
    loss = objective.choice_loss(question, states, commands, Pairs(pairs, possible))
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_number_loss_is_the_mean_log_error_of_the_views_that_exist() -> None:
    wanted = torch.full((2, 3, 2), float("nan"))
    wanted[0, 0, 0], wanted[1, 0, 0] = 1.0, 2.0
    read = torch.zeros_like(wanted)
    read[0, 0, 0], read[1, 0, 0] = 1.1, 2.3
    assert objective.number_loss(read[None], wanted).item() == pytest.approx(0.5 * np.log(0.05 + 1e-5), abs=1e-5)
    assert objective.number_loss(torch.zeros(1, 2, 0, 2), torch.zeros(2, 0, 2)) == 0  # nothing is asked


def test_roughness_is_near_zero_for_smooth_features_and_one_for_noise() -> None:
    torch.manual_seed(0)
    state = torch.randn(2000, 1).repeat_interleave(2, dim=0)
    state += 0.01 * torch.randn_like(state)
    smooth, noise = state @ torch.randn(1, 16), torch.randn(4000, 16)
    assert objective.roughness(smooth[None], 1).item() < 1e-3
    assert objective.roughness(noise[None], 1).item() == pytest.approx(1.0, abs=0.05)
    # Differences between kinds of text are no merit: only what varies within one counts.
    offset = torch.arange(2.0).repeat_interleave(2000)[:, None] * 100
    assert objective.roughness((noise + offset)[None], 2).item() == pytest.approx(1.0, abs=0.05)


def started(vocabulary: Vocabulary, ternary: bool) -> NumberDecoder:
    torch.manual_seed(5)
    shape = attrs.evolve(TINY, vocab=len(vocabulary.tokens), format="ternary-f16" if ternary else "fp32")
    model = NumberDecoder(shape, torch.from_numpy(number_features(vocabulary.tokens)))
    start(model)
    return model


@pytest.mark.parametrize("ternary", [True, False])
@torch.no_grad()
def test_two_heads_start_by_looking_one_and_two_tokens_back(vocabulary: Vocabulary, ternary: bool) -> None:
    model, length = started(vocabulary, ternary), 30
    shape, block = model.shape, model.blk[0]
    x = model.embeddings()[torch.randint(0, shape.vocab, (length,))]
    qkv = block.products(x, "attn_norm", "attn_q", "attn_k", "attn_v")
    heads = qkv.view(length, -1, shape.head_dim).transpose(0, 1)
    q, k = (
        rotate(h, *rotary_table(shape.theta, shape.head_dim, length, h.device))
        for h in (heads[:2], heads[shape.heads : shape.heads + 1])
    )
    scores = q @ k.transpose(-2, -1) * shape.head_dim**-0.5
    attention = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf")).softmax(dim=-1)
    for head, back in enumerate(LOOK_BACK):
        assert attention[head].diagonal(-back)[5:].mean() > 0.3  # one of 15 on average would be 0.07


def test_tokens_of_numbers_are_nothing_but_what_they_say(vocabulary: Vocabulary) -> None:
    model = started(vocabulary, True)
    said = torch.from_numpy(number_features(vocabulary.tokens))
    there = said.abs().sum(dim=1) > 0
    table = model.embeddings()
    assert torch.linalg.matrix_rank(table[there]) <= said.shape[1] < 20
    assert torch.equal(table[~there], model.token_embd[~there])


def test_bits_per_byte_of_a_model_that_knows_nothing(tiny: NumberDecoder) -> None:
    blank = NumberDecoder(tiny.shape)
    torch.nn.init.zeros_(blank.output_norm)  # every token equally likely
    ids = list(range(256)) * 2
    assert bits_per_byte(blank, ids, size=len(ids)) == pytest.approx(np.log2(tiny.shape.vocab), abs=1e-4)


def request(out: Path, **changes: object) -> PretrainingRequest:
    text = out.parent / "prose.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, and then it does so again.\n" * 60)
    asked: dict[str, object] = dict(  # noqa: C408
        out=out, text=[text], envs=["MountainCar-v0"], steps=4, minutes=None, seed=1, shape=TINY, tokens_per_batch=256,
        resume=False, command="bitrl model train", device="cpu",
    )  # fmt: skip
    return PretrainingRequest(**asked | changes)  # type: ignore[arg-type]


def quiet(*anything: object) -> None:
    pass


@contextmanager
def one_thread() -> Iterator[None]:
    """Models this small are slower with two, above all when the tests share the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def small_measurements() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "PROBED", 80)
        patch.setattr(command, "LEARNING_STEPS", 0)
        patch.setattr(measure, "UNSEEN", ("Pendulum-v1",))
        yield


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with small_measurements(), one_thread():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a training that nothing disturbed, in a folder with what else it wrote."""
    with small_measurements(), one_thread():
        path = tmp_path_factory.mktemp("whole") / "m.gguf"
        train_model(request(path), quiet, quiet)
    return path


def test_the_same_command_makes_the_same_file_and_a_card(whole: Path, tmp_path: Path) -> None:
    training = train_model(request(tmp_path / "m.gguf"), quiet, quiet)
    assert (tmp_path / "m.gguf").read_bytes() == whole.read_bytes()
    for folder in (whole.parent, tmp_path):
        assert sorted(path.name for path in folder.iterdir()) == ["m.gguf", "m.md", "prose.txt"]
    card = (tmp_path / "m.md").read_text()
    assert "{" not in card
    for fact in (f"{training.weights:,} weights", "4 steps", "MountainCar-v0", training.files[0].sha256):
        assert fact in card
    without_text = write_card(attrs.evolve(training, bits_per_byte=None, files=[]), tmp_path / "m.gguf")
    assert card.count("Held-out prose") == 1
    assert without_text.count("Held-out prose") == 0
    assert load_backbone("bitnet", model=str(tmp_path / "m.gguf")).encode(["x=1"]).shape == (1, 256)


def test_a_killed_training_resumes_to_the_same_file(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    class Killed(Exception):
        pass

    def kill(progress: object, steps: int) -> None:
        if progress.step == 3:  # type: ignore[attr-defined]
            raise Killed

    plan = command.PretrainingPlan
    monkeypatch.setattr(command, "PretrainingPlan", lambda **facts: plan(**facts, checkpoint_every=2))
    with pytest.raises(Killed):
        train_model(request(tmp_path / "m.gguf"), quiet, kill)
    assert not (tmp_path / "m.gguf").exists()
    with pytest.raises(UsageError, match="another command"):
        train_model(request(tmp_path / "m.gguf", resume=True, seed=2), quiet, quiet)
    train_model(request(tmp_path / "m.gguf", resume=True), quiet, quiet)
    assert (tmp_path / "m.gguf").read_bytes() == whole.read_bytes()
    assert not (tmp_path / "m.gguf.checkpoint").exists()


def test_a_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    (tmp_path / "m.gguf.checkpoint").write_bytes(b"\x10\0\0\0\0\0\0\0not a checkpoint")
    with pytest.raises(UsageError, match="damaged"):
        train_model(request(tmp_path / "m.gguf", resume=True), quiet, quiet)


def test_minutes_become_steps(tmp_path: Path) -> None:
    training = train_model(request(tmp_path / "m.gguf", steps=None, minutes=0.01), quiet, quiet)
    assert training.progress.step == training.plan.steps >= 1


def test_text_files_may_be_compressed_and_must_exist(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.dz").write_bytes(gzip.compress(b"one   two\r\n\r\n\r\nthree"))
    assert read_text(tmp_path / "a.dz").text == "one two\n\nthree"
    (tmp_path / "b.gz").write_bytes(b"\x1f\x8b not gzip")
    for name in ("b.gz", "missing.txt"):
        with pytest.raises(UsageError, match=name):
            read_text(tmp_path / name)


def test_shapes_the_file_format_cannot_hold_are_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 256"):
        check_shape(DecoderShape(width=320))
    with pytest.raises(UsageError, match="--vocab"):
        check_shape(DecoderShape(vocab=4000))


def test_training_lowers_every_loss() -> None:
    """Fifty steps on one environment, from scratch."""
    from bitrl.plugins.backbones.training.pretraining.corpus import Corpus
    from bitrl.plugins.backbones.training.pretraining.train import Pretrainer, PretrainingPlan

    readers = known("MountainCar-v0", ["json"], seed=0)
    vocabulary = train_vocabulary(["no prose"], readers[0].sample(np.random.default_rng(0), 100).texts, 4400)
    corpus = Corpus([], readers, vocabulary.tokenizer(), 32, 64)
    shape = DecoderShape(vocab=len(vocabulary.tokens), width=256, blocks=1, heads=4, kv_heads=2, ffn=256)
    trainer = Pretrainer(
        shape,
        PretrainingPlan(steps=50, learning_rate=2.5e-3, warmup=5, model_warmup=5),
        "",
        number_features(vocabulary.tokens),
    )
    batch = corpus.known_batch(np.random.default_rng(9))

    def measured() -> dict[str, float]:
        with torch.no_grad():
            [losses] = objective.losses(trainer.model, trainer.readout, trainer.questions, [batch])
        return {name: loss.item() for name, loss in losses.items()}

    before = measured()
    trainer.run(corpus, None, quiet)
    after = measured()
    for name, loss in before.items():
        assert after[name] < 0.95 * loss if loss > 0 else after[name] < loss - 0.05, name
    assert [point["step"] for point in trainer.progress.curve] == list(range(1, 51))


def test_the_token_losses_count_only_tokens_that_are_there(tiny: NumberDecoder) -> None:
    parts = []
    wanted = []
    for length, lengths in ((7, [7, 4]), (5, [2, 5, 3])):
        tokens = torch.randint(0, 256, (len(lengths), length))
        *_, [last] = tiny.residuals(tokens)
        parts.append((last, TokenBatch(tokens, torch.tensor(lengths))))
        nats = [
            F.cross_entropy(tiny.logits(last[row, : n - 1]), tokens[row, 1:n], reduction="sum")
            for row, n in enumerate(lengths)
        ]
        wanted.append(sum(each.item() for each in nats) / (sum(lengths) - len(lengths)))
    assert [loss.item() for loss in objective.token_losses(tiny, parts)] == pytest.approx(wanted, rel=1e-5)


def test_a_text_environments_numbers_are_supervised_while_they_are_written_and_its_phrases_are_tokens() -> None:
    texts = facts_and_numbers("SmartHome-Light", 24, 0)
    vocabulary = vocabulary_for([], [], 4300, 0, [texts])
    assert " klx, the study lamp is " in vocabulary.phrases
    corpus = Corpus([], [], vocabulary.tokenizer(), 256, 512, [texts])
    batch = corpus.environment_batch(np.random.default_rng(0))
    assert batch.plain
    assert batch.facts is not None
    assert batch.numbers is not None
    for numbers, length in zip(batch.numbers, batch.lengths.tolist(), strict=True):
        asked = (~numbers[:length].isnan()).sum(dim=1)  # at each token, how many numbers stand there already
        assert asked[0] == 0  # the request has none
        assert set(asked.tolist()) == set(range(14))
        assert (asked.diff() >= 0).all()


def test_from_its_first_number_a_text_goes_on() -> None:
    assert from_its_first_number("make it bright. hour=6.5 lamp=0") == "6.5 lamp=0"
    assert from_its_first_number("nothing") == ""


def tensors_in(value: object) -> list[torch.Tensor]:
    if attrs.has(type(value)):
        return [x for field in attrs.fields(type(value)) for x in tensors_in(getattr(value, field.name))]
    return [value] if isinstance(value, torch.Tensor) else []


def small_corpus() -> Corpus:
    readers = known("MountainCar-v0", ["json"], seed=0)
    vocabulary = train_vocabulary(["no prose"], readers[0].sample(np.random.default_rng(0), 100).texts, 4400)
    games = CommandTexts(
        ["a door. recipe: salt"] * 8, [("open door",)] * 8, [("eat",)] * 8, [("take salt",)] * 8, [()] * 8
    )
    return Corpus([], readers, vocabulary.tokenizer(), 64, 128, choices=games)


def test_batches_made_ahead_are_those_made_in_turn() -> None:
    corpus = small_corpus()
    for step, ahead in zip(range(3, 9), made_ahead(corpus, 5, range(3, 9)), strict=True):
        for mine, theirs in zip(batches_of(corpus, 5, step), ahead, strict=True):
            for a, b in zip(tensors_in(mine), tensors_in(theirs), strict=True):
                assert torch.equal(a.nan_to_num(9.0), b.nan_to_num(9.0))


def test_a_batch_moves_as_a_whole() -> None:
    batch = small_corpus().choice_batch(np.random.default_rng(0))
    there = moved(batch, torch.device("meta"))
    assert len(tensors_in(there)) == len(tensors_in(batch)) == 8
    assert {x.device.type for x in tensors_in(there)} == {"meta"}
    assert moved(batch, CPU).tokens is batch.tokens


def test_texts_made_equally_long_are_read_alike(tiny: NumberDecoder) -> None:
    """As a GPU reads them, with the padding that this takes."""
    texts = [torch.randint(0, 256, shape) for shape in ((3, 9), (2, 4), (1, 6))]
    with torch.no_grad():
        for one, each in zip(*(objective.streams(tiny, texts, 1, as_one) for as_one in (True, False)), strict=True):
            assert one.shape == each.shape
            assert torch.allclose(one, each, atol=1e-5)


def test_a_damaged_compressed_text_is_one_line(tmp_path: Path) -> None:
    raw = bytearray(gzip.compress(b"the king and the queen " * 1000))
    raw[14] ^= 0xFF
    (tmp_path / "a.gz").write_bytes(raw)
    with pytest.raises(UsageError, match=r"--text .*a\.gz: cannot be read: .*decompressing"):
        read_text(tmp_path / "a.gz")


@pytest.mark.parametrize("text", ["a", "hello there", "hello there " * 2])
def test_prose_shorter_than_a_passage_is_one(
    vocabulary: Vocabulary, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other batches matter only as not being prose; schemas that are made up to choose among took the time.
    monkeypatch.setattr(Corpus, "invented_batch", partialmethod(Corpus.invented_batch, schemas=2))
    corpus = Corpus([TextFile("a.txt", "", text)], [], vocabulary.tokenizer(), 64, 512)
    assert len(corpus.prose) < 32
    for step in range(8):  # among which some are of prose
        for batch in batches_of(corpus, 0, step):
            assert len(corpus.prose) > 1 or batch.numbers is not None
            if batch.numbers is None:
                assert batch.tokens[0].tolist() == corpus.prose.tolist()


def test_schemas_are_made_up_until_one_fits_the_context(vocabulary: Vocabulary) -> None:
    corpus = Corpus([], [], vocabulary.tokenizer(), 64, 12)
    batches = [corpus.invented_batch(np.random.default_rng(seed), schemas=1) for seed in range(8)]
    assert all(int(batch.lengths.max()) <= 12 for batch in batches)
    with pytest.raises(ValueError, match="no schema fits a context of 1 tokens"):
        Corpus([], [], vocabulary.tokenizer(), 64, 1).invented_batch(np.random.default_rng(0), schemas=1)


class OneArray(gymnasium.Env):
    """All of its observations are one array, changed in place."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.observation, self.steps = np.zeros(1, np.float32), 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observe(), 0.0, self.steps == 8, False, {}

    def observe(self) -> np.ndarray:
        self.observation[0] = self.steps / 10
        return self.observation


def test_states_visited_are_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that hands out one array gave as many copies of its last state."""
    monkeypatch.setitem(gymnasium.registry, "OneArray-v0", EnvSpec("OneArray-v0", entry_point=OneArray))
    visited = random_policy_states(OneArray(), 0, count=24)
    assert sorted(set(visited.ravel().round(1).tolist())) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    learned = learning_policy_states("OneArray-v0", 0, steps=2048, count=300)
    assert len(set(learned.ravel().round(1).tolist())) > 7
