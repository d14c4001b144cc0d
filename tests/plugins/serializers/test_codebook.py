"""Codebooks: k-means against hand-worked cases and brute force, and what holds for every codebook."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitrl.plugins.serializers.codebook import Codebook, fit, in_order, k_means, nearest


def cloud(seed, n=300, d=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * rng.uniform(0.1, 10, d) + rng.uniform(-5, 5, d)


def test_three_groups_on_a_line_are_found():
    vectors = np.array([0.0, 1.0, 10.0, 11.0, 12.0, 100.0])[:, None]
    for seed in range(10):
        centres, inertia = k_means(vectors, 3, np.random.default_rng(seed))
        assert sorted(centres[:, 0]) == [0.5, 11.0, 100.0]
        assert inertia[-1] == pytest.approx((0.25 + 0.25 + 1 + 0 + 1 + 0) / 6)


def test_as_many_codes_as_vectors_differ():
    vectors = np.repeat([[0.0, 1.0], [2.0, 3.0], [0.0, 3.0]], 5, axis=0)
    centres, inertia = k_means(vectors, 8, np.random.default_rng(0))
    assert sorted(map(tuple, centres)) == [(0.0, 1.0), (0.0, 3.0), (2.0, 3.0)]
    assert inertia == pytest.approx([0.0] * len(inertia), abs=1e-12)
    constant = fit(np.ones((4, 2)), 2, 8)
    assert constant.encode(np.ones((1, 2))).tolist() == [[0, 0]]


@settings(max_examples=15)
@given(st.integers(0, 2**16), st.integers(1, 40))
def test_the_distance_never_grows_and_ends_below_that_of_the_starts(seed, count):
    _, inertia = k_means(cloud(seed), count, np.random.default_rng(seed))
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(inertia))


@settings(max_examples=15)
@given(st.integers(0, 2**16))
def test_nearest_is_that_of_brute_force(seed):
    vectors, centres = cloud(seed, 20), cloud(seed + 1, 7)
    squares = ((vectors[:, None] - centres) ** 2).sum(axis=2)
    labels, distances = nearest(vectors, centres)
    np.testing.assert_array_equal(labels, squares.argmin(axis=1))
    np.testing.assert_allclose(distances, squares.min(axis=1), atol=1e-9)


def test_codes_of_one_number_grow_with_it():
    book = fit(cloud(3, d=1), 1, 50)
    assert (np.diff(book.codes[0][:, 0]) > 0).all()
    assert (np.diff(book.encode(np.linspace(-20, 20, 500)[:, None])[:, 0]) >= 0).all()


def test_codes_are_in_order_along_the_line_in_which_they_differ_most():
    along = np.array([3.0, -1.0, 7.0, 0.0, 5.0])
    centres = along[:, None] * [0.6, 0.8] + np.array([1.0, -2.0])
    np.testing.assert_allclose(in_order(centres)[:, 0], 1.0 + 0.6 * np.sort(along))


@settings(max_examples=15)
@given(st.integers(0, 2**16), st.integers(1, 4))
def test_what_a_code_stands_for_is_written_as_that_code_and_is_the_nearest_there_is(seed, parts):
    vectors = cloud(seed)
    book = fit(vectors, parts, 16)
    assert len(book.codes) == min(parts, 3)
    found = book.encode(vectors)
    np.testing.assert_array_equal(book.encode(book.decode(found)), found)
    error = ((book.decode(found) - vectors) ** 2 / book.scale**2).sum(axis=1)
    other = ((book.decode(np.random.default_rng(seed).permutation(found)) - vectors) ** 2 / book.scale**2).sum(axis=1)
    assert (error <= other + 1e-9).all()


def test_more_codes_lose_less_and_the_same_vectors_give_the_same_codebook():
    vectors = cloud(5)
    errors = []
    for count in (2, 8, 32):
        book, again = fit(vectors, 2, count), fit(vectors.copy(), 2, count)
        for name, array in book.arrays().items():
            np.testing.assert_array_equal(array, again.arrays()[name])
        errors.append(((book.decode(book.encode(vectors)) - vectors) ** 2).mean())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_what_is_no_number_and_what_is_far_away():
    book = fit(cloud(1), 3, 16)
    mean = book.encode(book.mean[None])
    np.testing.assert_array_equal(book.encode(np.full((1, 3), np.nan)), mean)
    far = book.encode(np.array([[np.inf, -np.inf, 1e300]]))
    assert far.tolist() == [[15, 0, 15]]


def test_through_arrays_and_back():
    book = fit(cloud(2), 2, 16)
    again = Codebook.of_arrays(book.arrays())
    np.testing.assert_array_equal(again.encode(cloud(3)), book.encode(cloud(3)))
