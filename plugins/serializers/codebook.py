"""Codebooks: a few whole numbers that say about where a vector lies. Shapes: n vectors of d numbers, c codes.

Product quantisation (Jégou, Douze and Schmid 2011): a vector is cut into parts, and each part is said by the nearest of
its codes, found by k-means (Lloyd 1982) from k-means++ starts (Arthur and Vassilvitskii 2007). Knows nothing of
environments or texts.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

ROUNDS = 25
"""Of k-means at most; it moves little after ten."""


@attrs.frozen(eq=False)
class Codebook:
    """What `fit` found.

    Attributes:
        mean, scale: of the vectors, float64 [d], by which they are standardised.
        codes: of each part, float64 [c, numbers of the part], sorted along the line in which they differ most:
            neighbouring codes are alike, as far as one line can say.
    """

    mean: np.ndarray
    scale: np.ndarray
    codes: tuple[np.ndarray, ...]

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors [n, d] → which code each part is nearest to, int64 [n, parts]. A NaN counts as the mean."""
        with np.errstate(over="ignore"):
            standard = (np.asarray(vectors, np.float64) - self.mean) / self.scale
        standard = np.clip(np.nan_to_num(standard, nan=0.0), -1e6, 1e6)
        parts = np.split(standard, np.cumsum([codes.shape[1] for codes in self.codes])[:-1], axis=1)
        return np.stack([nearest(part, codes)[0] for part, codes in zip(parts, self.codes, strict=True)], axis=1)

    def decode(self, found: np.ndarray) -> np.ndarray:
        """What `encode` gave → the vectors that the codes stand for, float64 [n, d]."""
        parts = [codes[found[:, i]] for i, codes in enumerate(self.codes)]
        vectors: np.ndarray = np.concatenate(parts, axis=1) * self.scale + self.mean
        return vectors

    def arrays(self) -> dict[str, np.ndarray]:
        """Itself as named arrays."""
        return {"mean": self.mean, "scale": self.scale} | {f"codes.{i}": codes for i, codes in enumerate(self.codes)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Codebook:
        """What `arrays` gave → the codebook."""
        return cls(arrays["mean"], arrays["scale"], tuple(arrays[f"codes.{i}"] for i in range(len(arrays) - 2)))


def fit(vectors: np.ndarray, parts: int, count: int) -> Codebook:
    """A codebook for vectors [n, d] cut into at most d parts of neighbouring numbers, as equal as can be, with `count`
    codes for each (fewer where fewer differ). The same vectors give the same codebook.
    """
    rng = np.random.default_rng(0)
    vectors = np.asarray(vectors, np.float64)
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    cut = np.array_split((vectors - mean) / scale, min(parts, vectors.shape[1]), axis=1)
    return Codebook(mean, scale, tuple(in_order(k_means(part, count, rng)[0]) for part in cut))


def k_means(vectors: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """Centres float64 [c, d] of vectors [n, d], c = `count` or as many as differ; and after each round the mean squared
    distance to the nearest one, which never grows.
    """
    centres = _starts(vectors, count, rng)
    inertia: list[float] = []
    for _ in range(ROUNDS):
        labels, distances = nearest(vectors, centres)
        inertia.append(float(distances.mean()))
        if len(inertia) > 1 and inertia[-1] > inertia[-2] * (1 - 1e-3):
            break
        sizes = np.bincount(labels, minlength=len(centres))
        order = np.argsort(labels, kind="stable")
        filled = np.flatnonzero(sizes)
        sums = np.add.reduceat(vectors[order], (np.cumsum(sizes) - sizes)[filled], axis=0)
        centres[filled] = sums / sizes[filled, None]  # one that nothing is nearest to stays where it is
    return centres, inertia


def nearest(vectors: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each of n vectors, the nearest centre, int64 [n], and the squared distance to it, float64 [n]."""
    far = (centres**2).sum(axis=1) - 2 * (vectors @ centres.T)
    labels = far.argmin(axis=1)
    return labels, np.maximum(far[np.arange(len(vectors)), labels] + (vectors**2).sum(axis=1), 0.0)


def in_order(centres: np.ndarray) -> np.ndarray:
    """Centres [c, d] sorted along their first principal component, whose largest entry counts as positive."""
    line = np.linalg.svd(centres - centres.mean(axis=0), full_matrices=False)[2][0]
    line = line * np.sign(line[np.abs(line).argmax()])
    return centres[np.argsort(centres @ line, kind="stable")]


def _starts(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++: each next start is drawn with the squared distance to those before it as its weight."""
    chosen = [int(rng.integers(len(vectors)))]
    distances = ((vectors - vectors[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < count and distances.max() > 0:
        weights = np.cumsum(distances)
        chosen.append(int(np.searchsorted(weights, rng.random() * weights[-1], side="right")))
        distances = np.minimum(distances, ((vectors - vectors[chosen[-1]]) ** 2).sum(axis=1))
    return vectors[chosen].copy()
