"""The features cache: the same bits as without, within its bytes, counted right."""

import copy
import json
import threading
import tracemalloc
from collections import OrderedDict

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TinyModel

from bitrl import cached
from bitrl.cli.run import report
from bitrl.core.acting.cache import Cache, size_of
from bitrl.core.config import resolve
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import CachingBackbone, LearningBackbone, TokenizingBackbone
from bitrl.core.runs.parts import build
from bitrl.core.runs.train import run
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.language_model import LanguageModel

WIDTH = 3


def encode(texts) -> np.ndarray:
    """A stand-in: a text's features are numbers made of its characters."""
    rows = [[len(text), sum(map(ord, text)), text.count("a")] for text in texts]
    return np.array(rows, np.float32).reshape(-1, WIDTH)


def entry(text: str) -> int:
    return size_of(text, np.zeros(WIDTH, np.float32))


@given(st.lists(st.lists(st.text("abc", max_size=2), max_size=6), max_size=30), st.integers(0, 5))
def test_it_is_a_least_recently_used_cache(batches: list[list[str]], room: int) -> None:
    """Compared with a plain model of one: a list of texts, the last one asked for at its end."""
    cache, asked = Cache(room * entry("ab")), []
    kept: OrderedDict[str, int] = OrderedDict()
    hits = misses = 0
    for batch in batches:
        asked.clear()

        def watched(texts):
            asked.extend(texts)
            return encode(texts)

        np.testing.assert_array_equal(cache.rows(batch, watched), encode(batch))
        new = list(dict.fromkeys(text for text in batch if text not in kept)) if room else batch
        assert asked == new
        hits, misses = hits + len(batch) - len(new), misses + len(new)
        for text in dict.fromkeys(text for text in batch if text in kept):
            kept.move_to_end(text)
        for text in new if room else ():
            while sum(map(entry, kept)) + entry(text) > cache.budget:
                kept.popitem(last=False)
            kept[text] = 1
        expected = {"hits": hits, "misses": misses, "entries": len(kept), "bytes": sum(map(entry, kept))}
        assert cache.statistics() == expected
        assert cache.bytes <= cache.budget


@pytest.mark.parametrize("letter", ["a", "é", "語", "😀"])
@pytest.mark.parametrize("width", [1, 256])
def test_its_bytes_are_no_less_than_what_it_takes(letter: str, width: int) -> None:
    cache = Cache(1 << 30)

    def some(texts):
        for text in texts:
            text.encode()  # as the tokenizer does
        return np.zeros((len(texts), width), np.float32)

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for start in range(0, 3000, 16):
            cache.rows([letter * 40 + str(i) for i in range(start, start + 16)], some)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used <= cache.bytes
    assert cache.bytes <= 3 * used + 3008 * 8 * 45  # and not wildly more


def test_a_row_that_the_caller_changes_is_not_changed_in_the_cache() -> None:
    cache = Cache(1 << 20)
    for _ in range(3):
        rows = cache.rows(["a", "b"], encode)
        np.testing.assert_array_equal(rows, encode(["a", "b"]))
        rows[:] = -1


def test_a_text_larger_than_the_budget_pushes_nothing_out() -> None:
    cache = Cache(2 * entry("a"))
    cache.rows(["a"], encode)
    cache.rows(["b" * 5000], encode)
    assert (cache.entries, cache.bytes) == (1, entry("a"))


def test_nothing_is_kept_or_counted_when_encoding_fails() -> None:
    cache = Cache(1 << 20)

    def fail(texts):
        raise UsageError("too long")

    with pytest.raises(UsageError):
        cache.rows(["a"], fail)
    assert cache.statistics() == {"hits": 0, "misses": 0, "entries": 0, "bytes": 0}


def test_nothing_that_was_begun_before_it_was_cleared_is_kept() -> None:
    cache = Cache(1 << 20)
    cache.rows(["a"], encode)

    def cleared_meanwhile(texts):
        cache.clear()
        return encode(texts)

    np.testing.assert_array_equal(cache.rows(["a", "b"], cleared_meanwhile), encode(["a", "b"]))
    assert (cache.entries, cache.bytes, cache.hits, cache.misses) == (0, 0, 1, 2)


class ThirdParty:
    """A backbone as somebody else may have written it; it notes what it is asked."""

    width, identity = WIDTH, {"name": "third party"}
    greeting = "hello"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, inputs) -> np.ndarray:
        self.asked.extend(inputs)
        return encode(inputs)

    def tokenize(self, inputs) -> list[list[int]]:
        return [list(map(ord, text)) for text in inputs]

    def token_counts(self, inputs) -> list[int]:
        return list(map(len, inputs))


class ThatLearns(ThirdParty):
    version = 0

    def module(self):
        return None

    def sync(self) -> None:
        self.version += 1

    def learned(self) -> dict:
        return {}

    def load_learned(self, arrays) -> None:
        self.version += 1


def test_a_third_partys_backbone_gets_a_cache_and_keeps_its_protocols() -> None:
    own = ThirdParty()
    backbone = cached(own, mebibytes=0.5)
    for _ in range(2):
        np.testing.assert_array_equal(backbone.encode(["a", "bb", "a"]), encode(["a", "bb", "a"]))
    assert own.asked == ["a", "bb"]
    assert isinstance(backbone, TokenizingBackbone)
    assert isinstance(backbone, CachingBackbone)
    assert not isinstance(backbone, LearningBackbone)
    assert (backbone.cache.budget, backbone.cache.hits, backbone.greeting) == (1 << 19, 4, "hello")
    assert (backbone.width, backbone.identity) == (WIDTH, {"name": "third party"})
    assert copy.copy(backbone).width == WIDTH
    with pytest.raises(AttributeError, match="'ThirdParty' object has no attribute 'nothing'"):
        _ = backbone.nothing


def test_a_backbone_with_slots_gets_a_cache() -> None:
    @attrs.frozen
    class Slotted:
        width: int = WIDTH
        identity: dict = attrs.Factory(dict)

        def encode(self, inputs) -> np.ndarray:
            return encode(inputs)

    backbone = cached(Slotted())
    for _ in range(2):
        np.testing.assert_array_equal(backbone.encode(["a"]), encode(["a"]))
    assert (backbone.cache.hits, backbone.width) == (1, WIDTH)


def test_a_backbone_that_learns_empties_its_cache() -> None:
    own = ThatLearns()
    backbone = cached(own)
    assert isinstance(backbone, LearningBackbone)
    for change in (backbone.sync, lambda: backbone.load_learned({})):
        backbone.encode(["a"])
        change()
        assert backbone.cache.entries == 0
    assert backbone.version == 2
    backbone.encode(["a"])
    assert own.asked == ["a", "a", "a"]


def test_what_cannot_be_cached(tmp_path) -> None:
    path = str(TinyModel(width=48, ffn=80).write(tmp_path / "tiny.gguf"))
    with pytest.raises(UsageError, match="LanguageModel already has a cache of features"):
        cached(LanguageModel(LanguageModelOptions(model=path)))
    with pytest.raises(UsageError, match="_Cached already has a cache of features"):
        cached(cached(ThirdParty()))
    with pytest.raises(UsageError, match="expected mebibytes above 0, got 0"):
        cached(ThirdParty(), 0)


def test_threads_share_one(tmp_path) -> None:
    cache, wrong = Cache(20 * entry("10")), []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            texts = [str(number) for number in rng.integers(0, 40, 8)]
            if not np.array_equal(cache.rows(texts, encode), encode(texts)):
                wrong.append(texts)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    found = cache.statistics()
    assert found["hits"] + found["misses"] == 4 * 200 * 8
    assert found["entries"] == len(cache._rows)
    assert found["bytes"] == sum(size_of(text, row) for text, row in cache._rows.items()) <= cache.budget


@pytest.mark.parametrize("options", [{}, {"pooling": "last"}, {"projection": 8}, {"pooling": "field"}])
def test_a_backbone_gives_the_same_bits_with_and_without(tmp_path, options: dict) -> None:
    path = str(TinyModel(width=48, ffn=80).write(tmp_path / "tiny.gguf"))
    cached, plain = (LanguageModel(LanguageModelOptions(model=path, cache_mb=mb, **options), 2) for mb in (0.01, 0.0))
    assert cached.identity == plain.identity
    rng = np.random.default_rng(0)
    for _ in range(30):
        texts = [f'{{"x": {x}, "y": 0.{y}}}' for x, y in rng.integers(0, 4, (7, 2))] + [""]
        np.testing.assert_array_equal(cached.encode(texts), plain.encode(texts))
    assert cached.cache.hits > 0 < cached.cache.entries
    assert (plain.cache.hits, plain.cache.entries, plain.cache.misses) == (0, 0, 240)
    assert cached.encode([]).shape == (0, cached.width)


def test_a_run_counts_its_hits_in_the_summary_and_learns_the_same(tmp_path) -> None:
    model = str(TinyModel(width=48, ffn=80).write(tmp_path / "tiny.gguf"))
    done = {}
    for mb in (16, 0):
        options = {"backbone.model": model, "backbone.cache_mb": mb, "algo.rollout_steps": 16, "run.eval_episodes": 3}
        out = tmp_path / f"run{mb}"
        summary = run("FrozenLake-v1", backbone="bitnet", serializer="json", steps=256, out=out, options=options)
        assert summary["cache"] == json.loads((out / "summary.json").read_text())["cache"]
        done[mb] = (summary["cache"], (out / "metrics.jsonl").read_bytes(), report(summary))
    (cached, metrics, words), (plain, same_metrics, other_words) = done[16], done[0]
    assert metrics == same_metrics
    assert 0 < cached["entries"] == cached["misses"] <= 16
    assert cached["hits"] + cached["misses"] == plain["misses"]
    assert f"feature-cache hit rate {cached['hits'] / plain['misses']:.0%} of {plain['misses']:,} texts" in words
    assert "hit rate" not in other_words


def test_a_runs_observations_say_how_many_numbers_a_text_holds(tmp_path) -> None:
    model = str(TinyModel(width=48, ffn=80).write(tmp_path / "tiny.gguf"))
    for env, count in (("CartPole-v1", 4), ("FrozenLake-v1", 1)):
        values = {"run": {"env": env}, "backbone": {"model": model, "pooling": "field"}}
        reader = build(resolve(values)).reader
        assert reader.width == 48 * count
