import zlib

import numpy as np

import bitrl


def test_every_word_counts_once_in_the_place_its_checksum_says():
    backbone = bitrl.load_backbone("example-hashing", width=None)
    features = backbone.encode(["left", "left left"])
    code = zlib.crc32(b"left")
    place, sign = (code >> 1) % backbone.width, 1 if code & 1 else -1
    assert features[0, place] == sign
    np.testing.assert_array_equal(features[1], 2 * features[0])
    assert np.count_nonzero(features[0]) == 1
