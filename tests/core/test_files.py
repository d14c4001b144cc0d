"""Files that are written whole or not at all, and what is no file."""

import os
import threading
from pathlib import Path

import pytest

from bitrl.core.errors import RunFailed
from bitrl.core.files import may_be_replaced, put_in_place, write_atomically


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomically(pipe, [b"some", b" words"])
    reader.join(60)
    assert found == [b"some words"]
    assert pipe.is_fifo()
    assert [*tmp_path.iterdir()] == [pipe]


def test_no_file_takes_the_place_of_what_is_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    made = tmp_path / "made"
    made.write_text("words")
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(FileExistsError, match="not a regular file"):
            put_in_place(made, place)
    assert made.read_text() == "words"


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/fd/1"])
def test_devices_and_links_to_the_output_stay(name):
    assert not may_be_replaced(Path(name))


def test_a_directory_is_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, Path()):
        with pytest.raises(RunFailed, match="cannot be written: Is a directory"):
            write_atomically(place, "words")
    assert not [*tmp_path.iterdir()]


def test_nothing_is_left_of_what_is_interrupted(tmp_path):
    def pieces():
        yield b"some"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", pieces())
    assert not [*tmp_path.iterdir()]
