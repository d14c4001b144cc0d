"""What a file is that is no model here, by its first bytes: the cause, where a reader could only tell the symptom.

Knows the beginnings of what is often found under a model's name. Reads nothing else of them, and runs nothing.
"""

from __future__ import annotations

import os
import re
import struct

_FIRST = 4096
_PICKLE = "is a PyTorch file (pickle), which could run code when it is read: save or get the model as safetensors"
_ARCHIVES = {
    b"PK\x03\x04": "ZIP", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR",
}  # fmt: skip
_OLD = (b"lmgg", b"fmgg", b"tjgg", b"algg")
"""GGML's formats before GGUF: the four letters of each, as a little-endian number."""
_CONVERT = "get the model as safetensors or GGUF"


def cause(path: str | os.PathLike[str], wanted: str) -> str | None:
    """What is wrong with a file that is not `wanted` ("GGUF", "safetensors" or "JSON"); None when its
    first bytes say nothing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # of a FIFO, not waiting for a writer
        try:
            first = os.pread(descriptor, _FIRST, 0)
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return None
    if not first:
        return f"is not a {wanted} file (0 bytes): it is empty; get it again"
    return _named(first, os.fspath(path)) or _other_kind(first, wanted)


def _named(first: bytes, path: str) -> str | None:
    """Of what is no model in any format."""
    text = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if first.startswith(b"version https://git-lfs.github.com/spec/"):
        size = re.search(rb"^size (\d{1,20})$", first, re.M)
        of = f" of {size[1].decode()} bytes" if size else ""
        return f"is a Git LFS pointer, not the file{of} that it stands for: run git lfs pull in its repository"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        return (
            "is a web page (HTML): what was downloaded is a page, perhaps one that asks to log in; get the file itself"
        )
    if text.startswith(b"<?xml"):
        return "is an XML document, perhaps a server's error message: get the file itself"
    if not any(first):
        return "begins with zeros alone, as an unfinished download does: get it again"
    if first.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) or b"data.pkl" in first[:128]:
        return _PICKLE
    for magic, name in _ARCHIVES.items():
        if first.startswith(magic):
            return f"is a {name} archive: unpack it and name the model inside"
    if first[257:262] == b"ustar":
        return "is a tar archive: unpack it and name the model inside"
    if first.startswith(_OLD):
        return f"is in a format of GGML's from before GGUF, which is not supported: {_CONVERT}"
    if first.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"is an HDF5 file, as Keras writes, which is not supported: {_CONVERT}"
    if first[4:8] == b"TFL3":
        return f"is a TensorFlow Lite file, which is not supported: {_CONVERT}"
    if path.endswith(".onnx") or (first[:1] == b"\x08" and (b"onnx" in text[:64] or b"pytorch" in text[:64])):
        return f"is an ONNX file, which is not supported: {_CONVERT}"
    return None


def _other_kind(first: bytes, wanted: str) -> str | None:
    """Of models, in the format that was not looked for."""
    if first.startswith((b"GGUF", b"FUGG")) and len(first) >= 8:
        (version,) = struct.unpack_from("<I", first, 4)
        # The two bytes of any version yet stand at the other end; the reversed magic has been proposed for such files.
        if (version and version & 0xFFFF == 0) or first.startswith(b"FUGG"):
            return (
                "is a big-endian GGUF file, and only little-endian ones are read: get that one, or convert it in place "
                "(gguf-convert-endian FILE little, of the Python package gguf)"
            )
        if wanted != "GGUF":
            return "is a GGUF file: give it a name that ends in .gguf"
        if version == 1 or 3 < version < 1 << 16:
            how = "get a newer conversion of the model" if version == 1 else "update bitrl, or get an older conversion"
            return f"is GGUF version {version}; versions 2 and 3 are supported: {how}"
    if wanted == "GGUF" and first[8:10] in (b'{"', b"{}", b"{ "):
        return "is a safetensors file: give it a name that ends in .safetensors, and its config.json beside it"
    if wanted != "JSON" and first.lstrip()[:1] == b"{":
        return "is a text in JSON, perhaps a server's error message or a model's configuration: get the file of weights"
    return None
