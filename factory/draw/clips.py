"""Clips as files: MP4 (H.264), GIF, animated WebP and single PNGs. Frames are uint8 [F, H, W, 3], RGB.

MP4 is written by FFmpeg through PyAV. What its wheel holds, and on whose terms: docs/log.md, 2026-11-28.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from factory.files import write_whole
from factory.provenance.marks import mark
from factory.records import ClipRequest, GeneratedClip

ClipFormat = Literal["mp4", "gif", "webp", "frames"]
_H264: Final = {
    "crf": "10",  # 0 lossless, 18 is called visually lossless at the sizes of films; a face of 128 px needs more
    "preset": "slow",
}
_GIF_TICK_MS: Final = 10  # a GIF counts time in these
_GIF_COLOURS: Final = 256
_WEBP_QUALITY: Final = 90


def encode_mp4(frames: np.ndarray, fps: int) -> bytes:
    """An MP4 that a player may begin before it has all of it: H.264, yuv420p (BT.709), as every browser plays it.

    Raises ValueError for sides that are odd, as colours have half the resolution.
    """
    _, height, width, _ = frames.shape
    if width % 2 or height % 2:
        raise ValueError(f"a clip of {width}x{height} px cannot be an MP4: both sides must be even")
    with TemporaryDirectory() as folder:  # FFmpeg opens the file again to move its index to the front
        file = Path(folder) / "clip.mp4"
        _write_mp4(file, frames, fps)
        return file.read_bytes()


def _write_mp4(file: Path, frames: np.ndarray, fps: int) -> None:
    _, height, width, _ = frames.shape
    with av.open(file, "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=_H264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU709, ColorRange.MPEG
        stream.codec_context.color_primaries, stream.codec_context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def as_clip(video_id: str, request: ClipRequest, frames: np.ndarray, *, prompt: str, poses: str) -> GeneratedClip:
    """What is kept of drawn frames. `prompt` is as it was given, `poses` what their path was called."""
    config, who = request.config, request.identity
    return GeneratedClip(
        video_id=video_id,
        identity_id=who.identity_id,
        name=who.name,
        prompt=prompt,
        seed=request.seed,
        video=encode_mp4(frames, config.fps),
        poster=frames[0],
        num_frames=len(frames),
        fps=config.fps,
        width=frames.shape[2],
        height=frames.shape[1],
        config=config.model_dump_json(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        people=[who.identity_id],
        poses=poses,
    )


def decode_mp4(data: bytes) -> np.ndarray:
    """The frames of an MP4. Raises ValueError if it is none, or has no picture in it."""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"this is no MP4 that can be read: {error}") from error
    if not frames:
        raise ValueError("this MP4 holds no frame")
    return np.stack(frames)


def encode_gif(frames: np.ndarray, frame_ms: float) -> bytes:
    """A GIF that repeats for ever, `frame_ms` milliseconds a frame: ends are rounded to 10 ms, so the clock is right.

    All frames share one palette and no dithering, so that what stands still does not flicker.
    """
    ends = [round(frame_ms * (number + 1) / _GIF_TICK_MS) for number in range(len(frames))]
    durations = [_GIF_TICK_MS * max(end - begin, 1) for begin, end in zip([0, *ends], ends, strict=False)]
    all_of_them = Image.fromarray(np.concatenate(list(frames)))
    palette = all_of_them.quantize(_GIF_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return buffer.getvalue()


def encode_webp(frames: np.ndarray, frame_ms: float) -> bytes:
    """An animated WebP that repeats for ever, `frame_ms` milliseconds a frame, ends rounded to 1 ms."""
    ends = [round(frame_ms * (number + 1)) for number in range(len(frames))]
    durations = [max(end - begin, 1) for begin, end in zip([0, *ends], ends, strict=False)]
    first, *others = map(Image.fromarray, frames)
    buffer = io.BytesIO()
    first.save(
        buffer, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=_WEBP_QUALITY, method=4
    )
    return buffer.getvalue()


def write_clip(
    video: bytes, fps: int, stem: Path, clip_format: ClipFormat, marked: Callable[[bytes], bytes] = mark
) -> Path:
    """A stored clip as a file <stem>.mp4, .gif or .webp, or as a folder <stem> with 000.png, 001.png, and so on.

    Each file goes through `marked`, so that it says that a model made it. Raises ValueError if the bytes are no MP4.
    """
    if clip_format == "frames":
        stem.mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(decode_mp4(video)):
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "PNG")
            write_whole(stem / f"{number:03}.png", marked(buffer.getvalue()))
        return stem
    if clip_format != "mp4":
        encode = encode_gif if clip_format == "gif" else encode_webp
        video = encode(decode_mp4(video), 1000 / fps)
    stem.parent.mkdir(parents=True, exist_ok=True)
    file = stem.with_name(f"{stem.name}.{clip_format}")  # with_suffix would cut a name at its last point
    write_whole(file, marked(video))
    return file
