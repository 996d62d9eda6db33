"""Clips as files: what is decoded again is what was encoded."""

from __future__ import annotations

import io
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from factory.draw.clips import decode_mp4, encode_gif, encode_mp4, encode_webp, write_clip


def clip(num_frames: int = 16, width: int = 96, height: int = 64) -> np.ndarray:
    """A disc that goes over a still background of soft colours: uint8 [F, H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    still = np.stack([120 + 60 * np.sin(x / 20), 120 + 60 * np.cos(y / 15), 110 + 50 * np.sin((x + y) / 25)], -1)
    frames = [still.round().astype(np.uint8) for _ in range(num_frames)]
    for number, frame in enumerate(frames):
        cv2.circle(frame, (20 + 3 * number, height // 2), 12, (220, 90, 60), -1, cv2.LINE_AA)
    return np.stack(frames)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB, of values 0..255."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def played(data: bytes) -> tuple[list[np.ndarray], list[int]]:
    """Frames and durations (ms) of a GIF or WebP."""
    with Image.open(io.BytesIO(data)) as image:
        shown = [(np.array(one.convert("RGB")), int(one.info["duration"])) for one in ImageSequence.Iterator(image)]
    return [frame for frame, _ in shown], [duration for _, duration in shown]


def test_an_mp4_holds_the_frames_and_their_time() -> None:
    frames = clip()
    data = encode_mp4(frames, 8)
    back = decode_mp4(data)
    assert back.shape == frames.shape and back.dtype == np.uint8
    assert min(psnr(a, b) for a, b in zip(frames, back, strict=True)) > 36
    assert psnr(frames[0], back[1]) < psnr(frames[0], back[0]) - 3, "each frame is itself"
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 8 and stream.duration is not None and stream.time_base is not None
        assert stream.duration * stream.time_base == 2, "16 frames, 8 a second"
    assert data.find(b"moov") < data.find(b"mdat"), "the index comes first"


@pytest.mark.parametrize("colour", [(230, 60, 50), (50, 200, 70), (40, 50, 220), (0, 0, 0), (255, 255, 255)])
def test_colours_come_back_as_they_were(colour: tuple[int, int, int]) -> None:
    """With the matrix that the file names: with another one red is 20 off."""
    flat = np.broadcast_to(np.array(colour, np.uint8), (1, 64, 64, 3))
    assert np.abs(decode_mp4(encode_mp4(flat, 8)).astype(int) - flat).max() <= 3


def test_a_single_frame_is_a_clip() -> None:
    assert decode_mp4(encode_mp4(clip(1), 60)).shape == (1, 64, 96, 3)


def test_odd_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="95x64 px cannot be an MP4: both sides must be even"):
        encode_mp4(clip(2, width=95), 8)


def test_what_is_no_mp4_is_told() -> None:
    with pytest.raises(ValueError, match="no MP4"):
        decode_mp4(b"not a clip at all" * 9)
    with pytest.raises(ValueError, match="no MP4"):
        decode_mp4(encode_mp4(clip(2), 8)[:300])


def test_a_gif_holds_the_frames_and_its_clock_does_not_drift() -> None:
    frames = clip()
    back, durations = played(encode_gif(frames, 125))
    assert len(back) == 16 and min(psnr(a, b) for a, b in zip(frames, back, strict=True)) > 32
    assert sum(durations) == 2000 and set(durations) == {120, 130}
    still = [frame[:10, :] for frame in back]
    assert all(np.array_equal(still[0], one) for one in still), "what stands still does not flicker"


def test_a_webp_holds_the_frames_and_their_time() -> None:
    frames = clip()
    back, durations = played(encode_webp(frames, 1000 / 12))
    assert len(back) == 16 and min(psnr(a, b) for a, b in zip(frames, back, strict=True)) > 33
    assert sum(durations) == round(16_000 / 12)


def test_stored_clips_are_written_in_every_format(tmp_path: Path) -> None:
    video = encode_mp4(clip(4), 8)
    stem = tmp_path / "deep" / "ada v1.2-0123"
    assert write_clip(video, 8, stem, "mp4").read_bytes().startswith(video)
    assert write_clip(video, 8, stem, "gif").name == "ada v1.2-0123.gif"
    frames, durations = played(write_clip(video, 8, stem, "webp").read_bytes())
    assert len(frames) == 4 and durations == [125] * 4
    folder = write_clip(video, 8, stem, "frames")
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["000.png", "001.png", "002.png", "003.png"]
    np.testing.assert_array_equal(np.array(Image.open(files[3])), decode_mp4(video)[3])
