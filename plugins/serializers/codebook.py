"""Codebooks: vectors approximated by a few integers. Shapes: n vectors of d numbers, c codes.

Product quantisation (Jégou, Douze and Schmid 2011): a vector is split into parts, and each part is encoded by the
nearest of its codes, found by k-means (Lloyd 1982) from k-means++ starts (Arthur and Vassilvitskii 2007). Knows nothing
of environments or texts.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

ROUNDS = 25
"""Iterations of k-means at most; it changes little after ten."""


@attrs.frozen(eq=False)
class Codebook:
    """Made by `fit`.

    Attributes:
        mean, scale: of the vectors, float64 [d], by which they are standardised.
        codes: of each part, float64 [c, numbers of the part], sorted along their first principal
            component, so that neighbouring codes are similar.
    """

    mean: np.ndarray
    scale: np.ndarray
    codes: tuple[np.ndarray, ...]

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors [n, d] → the index of the code nearest to each part, int64 [n, parts]. A NaN counts as the mean."""
        with np.errstate(over="ignore"):
            standard = (np.asarray(vectors, np.float64) - self.mean) / self.scale
        standard = np.clip(np.nan_to_num(standard, nan=0.0), -1e6, 1e6)
        parts = np.split(standard, np.cumsum([codes.shape[1] for codes in self.codes])[:-1], axis=1)
        return np.stack([nearest(part, codes)[0] for part, codes in zip(parts, self.codes, strict=True)], axis=1)

    def decode(self, found: np.ndarray) -> np.ndarray:
        """Indices from `encode` → the vectors that the codes represent, float64 [n, d]."""
        parts = [codes[found[:, i]] for i, codes in enumerate(self.codes)]
        vectors: np.ndarray = np.concatenate(parts, axis=1) * self.scale + self.mean
        return vectors

    def arrays(self) -> dict[str, np.ndarray]:
        """The codebook as named arrays."""
        return {"mean": self.mean, "scale": self.scale} | {f"codes.{i}": codes for i, codes in enumerate(self.codes)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Codebook:
        """The codebook from its `arrays`."""
        return cls(arrays["mean"], arrays["scale"], tuple(arrays[f"codes.{i}"] for i in range(len(arrays) - 2)))


def fit(vectors: np.ndarray, parts: int, count: int) -> Codebook:
    """A codebook for vectors [n, d] split into at most d parts of consecutive numbers, as equal as possible, with
    `count` codes for each (fewer where there are fewer distinct ones). The same vectors give the same codebook.
    """
    rng = np.random.default_rng(0)
    vectors = np.asarray(vectors, np.float64)
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    split = np.array_split((vectors - mean) / scale, min(parts, vectors.shape[1]), axis=1)
    return Codebook(mean, scale, tuple(in_order(k_means(part, count, rng)[0]) for part in split))


def k_means(vectors: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """Centres float64 [c, d] of vectors [n, d], c = `count` or as many as are distinct; and after each iteration the
    mean squared distance to the nearest one, which never increases.
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
        centres[filled] = sums / sizes[filled, None]  # an empty cluster keeps its centre
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
    """k-means++: each centre is drawn with probability proportional to the squared distance to the nearest one so
    far.
    """
    chosen = [int(rng.integers(len(vectors)))]
    distances = ((vectors - vectors[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < count and distances.max() > 0:
        weights = np.cumsum(distances)
        chosen.append(int(np.searchsorted(weights, rng.random() * weights[-1], side="right")))
        distances = np.minimum(distances, ((vectors - vectors[chosen[-1]]) ** 2).sum(axis=1))
    return vectors[chosen].copy()
