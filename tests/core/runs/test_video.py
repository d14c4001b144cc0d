"""Videos: what was recorded plays back in its colours and at its speed."""

import sys

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.runs.video import Video, check, page

COLOURS = [(250, 250, 250), (200, 30, 40), (10, 90, 220), (0, 0, 0), (60, 180, 75), (240, 200, 20)]


def record(path, fps, colours=COLOURS):
    """A video of one colour per frame, in the upper half of white frames of 41 x 33 pixels."""
    video = Video(path, fps)
    for colour in colours:
        frame = np.full((33, 41, 3), 255, np.uint8)
        frame[:16] = colour
        video.add(frame)
    video.save()


def test_a_gif_has_every_frame_in_its_colours(tmp_path):
    record(tmp_path / "a.gif", 20)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.size, image.n_frames, image.info["loop"]) == ((40, 32), len(COLOURS), 0)
        for frame, colour in zip(ImageSequence.Iterator(image), COLOURS, strict=True):
            pixels = np.asarray(frame.convert("RGB")).astype(int)
            assert np.abs(pixels[:15] - colour).max() <= 2
            assert pixels[17:].min() >= 253
            assert frame.info["duration"] == 50
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_a_gif_of_a_fast_environment_leaves_frames_out_and_keeps_its_speed(tmp_path):
    record(tmp_path / "a.gif", 125, COLOURS * 5)
    with Image.open(tmp_path / "a.gif") as image:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert len(durations) == 10
    assert min(durations) >= 20
    assert sum(durations) == pytest.approx(240, abs=20)


def test_an_mp4_has_every_frame_at_its_time(tmp_path):
    record(tmp_path / "a.MP4", 50)
    with av.open(tmp_path / "a.MP4") as container:
        frames = list(container.decode(video=0))
    assert len(frames) == len(COLOURS)
    for index, (frame, colour) in enumerate(zip(frames, COLOURS, strict=True)):
        assert float(frame.time) == pytest.approx(index / 50)
        pixels = frame.to_ndarray(format="rgb24").astype(int)
        assert pixels.shape == (32, 40, 3)
        assert np.abs(pixels[2:13].mean(axis=(0, 1)) - colour).max() < 8


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("video.avi", "video.avi: --video must end in .mp4 or .gif"),
        ("video", "--video must end in .mp4 or .gif"),
        ("missing/video.mp4", "there is no folder"),
        ("folder.gif", "folder.gif: is a folder"),
    ],
)
def test_an_unusable_path_is_refused_before_recording(tmp_path, name, error):
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(UsageError) as raised:
        check(tmp_path / name)
    assert error in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"pip install 'bitrl\[video\]'"):
        check(tmp_path / "a.mp4")


def ink(frame):
    """Where a frame is not white."""
    return (frame < 128).any(axis=2)


def test_a_page_is_drawn_line_by_line():
    frame = page("study    lamp\n\nhall     lamp")
    assert (frame.shape, frame.dtype) == ((18 * 26, 82 * 10, 3), np.uint8)
    lines = ink(frame).reshape(18, 26, 820)
    assert lines.any(axis=(1, 2)).nonzero()[0].tolist() == [1, 3]
    assert (lines[1, :, 100:] == lines[3, :, 100:]).all()  # the second column, after one of ten characters
    assert lines[1, :, 100:].any()
    assert (lines[1, :, :100] != lines[3, :, :100]).any()


def test_a_page_wraps_what_is_long_and_marks_what_it_leaves_out():
    long = ink(page("word " * 20)).reshape(18, 26, 820)
    assert long.any(axis=(1, 2)).nonzero()[0].tolist() == [1, 2]
    full, more = ("\n".join(["line"] * count) for count in (16, 17))
    full, more = (ink(page(text)).reshape(18, 26, 820) for text in (full, more))
    assert (full[1:16] == more[1:16]).all()
    assert full[16].any()
    assert (full[16] != more[16]).any()


@pytest.mark.parametrize(
    "text", ["", " ", "\x00\x07\x1b[2J", "\ud800", "火 😀", "\u202e", "x" * 100_000, "a\n" * 100_000]
)
def test_any_text_makes_a_page(text):
    assert page(text).shape == (468, 820, 3)


def test_without_pygame_text_cannot_be_recorded(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UsageError, match=r"pip install 'bitrl\[video\]'"):
        page("hall")


def test_a_video_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    record(tmp_path / "a.gif", 20)
    before = (tmp_path / "a.gif").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunFailed, match="choose another place with --video"):
        record(tmp_path / "a.gif", 20, COLOURS[:2])
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]
    assert (tmp_path / "a.gif").read_bytes() == before
