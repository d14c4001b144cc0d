"""Parts of the C agent beside what they must do as: the tokenizers library, Python's json, re, float and str.format."""

import ctypes
import json
import math
import re
import unicodedata

import pytest
from c_programs import agent_library
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitrl.core.acting.json_input import parse_json
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.number_ends import number_ends


class Node(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), *((name, ctypes.c_uint32) for name in ("begin", "end", "count", "next")))


class Text(ctypes.Structure):
    _fields_ = (
        ("text", ctypes.c_char_p),
        ("bytes", ctypes.c_size_t),
        ("nodes", ctypes.POINTER(Node)),
        ("capacity", ctypes.c_size_t),
        ("used", ctypes.c_size_t),
    )


STATES = st.text(st.sampled_from('{}[]",: ._-=+eE\n0123456789abcdefinlpstuvxyzAT'), max_size=60)

WORDS = st.lists(
    st.sampled_from(
        [
            *'"\\:.-=eE \n\t_',
            "nan",
            "null",
            "inf",
            "infinity",
            "INF",
            "joint_3",
            "x1",
            "0",
            "12.5",
            ".5",
            "1e-5",
            "é",
            "²",
            "ı",
            "‿",
        ]
    ),
    max_size=14,
)


@settings(max_examples=120, deadline=None)
@given(st.one_of(WORDS.map("".join), STATES, st.text(max_size=30)))
@example('"' + "a" * 128 + '": 1')
@example('"' + "a" * 129 + '": 1')
@example('"a\\"b" \n : 3, "c\\\n": 4')
def test_numbers_end_where_python_finds_them(text) -> None:
    library, encoded = agent_library(), text.encode()
    library.number_ends.restype = ctypes.c_size_t
    ends = (ctypes.c_uint32 * 100)()
    count = library.number_ends(encoded, ctypes.c_size_t(len(encoded)), ends, ctypes.c_size_t(100))
    known = all(unicodedata.category(c) != "Cn" for c in text)  # what is not assigned may have become a letter since
    if known:
        assert [len(encoded[:end].decode()) for end in ends[:count]] == number_ends(text), text


def read_in_c(text: bytes):
    """What the C reader makes of JSON. Raises ValueError as it does."""
    library, error = agent_library(), ctypes.create_string_buffer(256)
    for name in ("json_number",):
        getattr(library, name).restype = ctypes.c_double
    library.json_string.restype = ctypes.c_size_t
    nodes = (Node * 4096)()
    j = Text(text, len(text), nodes, 4096, 0)
    if library.json_read(ctypes.byref(j), error):
        raise ValueError(error.value.decode())

    def value(i: int):
        node = nodes[i]
        if node.kind < 3:
            return (None, False, True)[node.kind]
        if node.kind == 3:
            return int(text[node.begin : node.end])
        if node.kind == 4:
            return library.json_number(ctypes.byref(j), ctypes.byref(node))
        if node.kind == 5:
            room = ctypes.create_string_buffer(4096)
            n = library.json_string(ctypes.byref(j), ctypes.byref(node), room, ctypes.c_size_t(4096))
            return room.raw[:n].decode()
        found, at = [], i + 1
        for _ in range(node.count):
            found.append(value(at))
            if node.kind == 7:
                found[-1] = (found[-1], value(at + 1))
                at = nodes[at + 1].next
            else:
                at = nodes[at].next
        assert at == node.next
        return found if node.kind == 6 else dict(found)

    return value(0)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_json_is_read_as_python_reads_it(value, ascii_only, indent) -> None:
    assert read_in_c(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == value


@settings(max_examples=250, deadline=None)
@given(
    VALUES,
    st.integers(0, 1 << 30),
    st.sampled_from([None, *b'{}[]",:\\ 0123456789eE.-+tfnu\x00\x1f\x7f\xff\xc3\xa9']),
)
@example(-0.0, 0, None)
def test_what_is_no_json_is_refused_where_python_refuses_it(value, place, byte) -> None:
    text = bytearray(json.dumps(value, ensure_ascii=False).encode())
    if byte is None:
        del text[place % len(text)]
    else:
        text[place % len(text)] = byte
    try:
        expected = parse_json(bytes(text))
    except UsageError:
        with pytest.raises(ValueError, match=r"expected (JSON|UTF-8)"):
            read_in_c(bytes(text))
        return
    numbers = re.findall(rb"[eE][+-]?\d+", bytes(text))
    if b"\\ud" in text.lower() or any(math.isinf(float(b"1" + each)) for each in numbers):
        return  # Python reads half a surrogate pair, and infinity for what is too large; these are refused later
    assert read_in_c(bytes(text)) == expected


@pytest.mark.parametrize(
    "text",
    [b"", b" ", b"[", b"]", b"[1,]", b"{,}", b'{"a":1,}', b'{"a" 1}', b'{"a":1 "b":2}', b"01", b"1.", b".5", b"+1",
     b"1e", b"--1", b"nul", b"NaN", b"Infinity", b"[1 2]", b'"\\ud800"', b'"\\ud800\\u0041"', b'"\\udc00"', b'"\\x"',
     b'"\n"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'{"a":1,"a":2}', b'{"a":1,"\\u0061":2}',
     b"[" * 200 + b"]" * 200, b"1 2", b"1" * 2000, b'{"a":{"b":1,"b":1}}', b"[" + b"0," * 5000 + b"0]"],
)  # fmt: skip
def test_texts_that_are_refused(text) -> None:
    with pytest.raises(ValueError, match=r"expected (JSON|UTF-8)"):
        read_in_c(text)


@settings(max_examples=120, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(0.0, -0.0)
@example(1e16, 123456789012345680.0)
@example(1e-5, 0.0001)
@example(2.0**-24, 2.0**70)
def test_actions_are_written_as_python_writes_numbers(one, other) -> None:
    library, out = agent_library(), ctypes.create_string_buffer(40)
    library.write_float.restype = ctypes.c_size_t
    for number in (one, other):
        count = library.write_float(ctypes.c_double(number), out)
        assert out.raw[:count].decode() == json.dumps(number)
