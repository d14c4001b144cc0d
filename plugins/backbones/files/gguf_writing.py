"""Writing GGUF files: whole or not at all, sealed with their digests.

Knows the gguf package's writer and how a file takes its place. Does not know what is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf

from bitrl.core.files import cannot_write, put_in_place
from bitrl.plugins.backbones.files.model_file import HEADER_KEY, TENSOR_KEY, UNSEALED, seal


@contextmanager
def gguf_writer(path: Path, architecture: str) -> Iterator[gguf.GGUFWriter]:
    """A writer whose file becomes `path`, sealed, when the block ends, and is removed if the block raises.

    The block adds the keys, `add_digests` among them, and writes the file: `write_all`, or part by part.

    Raises:
        RunFailed: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = gguf.GGUFWriter(temporary, architecture)
    try:
        try:
            yield writer
        finally:
            writer.close()
        seal(temporary)
        put_in_place(temporary, path)
    except OSError as error:
        if error.errno is None:  # numpy, by which `write_all` writes tensors, does not say that the disk was full
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise cannot_write(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def add_digests(writer: gguf.GGUFWriter) -> None:
    """Add the keys that hold the file's digests once it is sealed."""
    writer.add_string(TENSOR_KEY, UNSEALED)
    writer.add_string(HEADER_KEY, UNSEALED)


def write_all(writer: gguf.GGUFWriter) -> None:
    """Write all keys and tensors that were added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
