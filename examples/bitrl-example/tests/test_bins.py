import numpy as np

import bitrl

CORRIDOR = bitrl.ObservationSpec("corridor", (bitrl.Field("position", 0.0, 10.0, "m"), bitrl.Field("speed")))


def serializer(**options):
    from bitrl_example import BinsOptions
    from bitrl_example.bins import Bins

    return Bins(BinsOptions(**options), CORRIDOR)


def test_numbers_become_levels():
    assert serializer(levels=11)(np.array([7.2, 0.0])) == "position=7 speed=5"


def test_numbers_beyond_their_bounds_stay_at_the_ends():
    assert serializer(levels=11).batch([[-3.0, -1e9], [99.0, 1e9]]) == ["position=0 speed=0", "position=10 speed=10"]
