"""Image files as cameras, phones, scanners and broken downloads leave them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from benchmarks.cases.desk import Desk, Got, Outcome, outcome_of, rejects_of, told
from factory.errors import PhotoRejected

TOLERANCE = 22  # of 255, between crops of one portrait; another orientation or a negative is over 50
_TURN = {  # EXIF orientation -> how the stored picture lies
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def i01(desk: Desk) -> Got:
    """HEIC, also one named .jpg: read, or told that it is HEIC."""
    folder, heic = desk.folder("i01"), Path(__file__).with_name("portrait.heic").read_bytes()
    (folder / "IMG_0001.HEIC").write_bytes(heic)
    (folder / "IMG_0002.jpg").write_bytes(heic + b"\0")
    ran, store = desk.prepared(folder)
    named = all("HEI" in row["detail"] for row in rejects_of(store))
    return Got(store.count("faces") + store.count("rejects") == 2 and named, outcome_of(ran, store))


def i03(desk: Desk) -> Got:
    """JPEGs without their last 2 and 40 bytes: used, if a setting allows it; half a JPEG is refused as cut."""
    whole, outcomes = desk.encoded(quality=90), {}
    for name, end in (("no end marker", -2), ("40 bytes short", -40), ("half", len(whole) // 2)):
        try:
            outcomes[name] = desk.prepare(whole[:end], salvage=True)
        except ValueError:
            return Got(False, "no setting for it")
    half = outcomes.pop("half")
    cut = isinstance(half, PhotoRejected) and half.reason != "not_an_image"
    used = all(_right(desk, outcome) for outcome in outcomes.values())
    return Got(used and (cut or not isinstance(half, PhotoRejected)), f"{_words(outcomes)}; half: {told(half)}")


def i04(desk: Desk) -> Got:
    """PNGs with 3 MB of compressed text and with a large ICC profile: used."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(2_000_000)
    return _all_right(desk, {
        "text": desk.encoded(format="PNG", pnginfo=info),
        "profile": desk.encoded(format="PNG", icc_profile=profile),
    })  # fmt: skip


def i06(desk: Desk) -> Got:
    """12 and 10 bits in 16-bit grey: normal brightness."""
    grey = np.asarray(desk.portrait.convert("L")).astype(np.uint16)
    files = {bits: desk.encoded(Image.fromarray(grey * 2 ** (int(bits) - 8)), "PNG") for bits in ("12", "10")}
    return _all_right(desk, files, grey=True)


def i07(desk: Desk) -> Got:
    """A DNG-like raw file: the full picture, or refused as raw; not its thumbnail."""
    folder, buffer = desk.folder("i07"), io.BytesIO()
    tags = [(271, "s", 0, "Camera", True), (50706, "B", 4, (1, 4, 0, 0), True)]  # make, DNG version
    thumbnail = np.asarray(desk.portrait.resize((160, 160)))
    with tifffile.TiffWriter(buffer) as file:
        file.write(thumbnail, photometric="rgb", subfiletype=1, subifds=1, extratags=tags)
        file.write(np.asarray(desk.portrait), photometric="rgb", subfiletype=0)
    (folder / "camera.dng").write_bytes(buffer.getvalue())
    ran, store = desk.prepared(folder)
    boxes = [np.ptp(box[::2]) for box in store.read("faces", columns=["box"])["box"].to_pylist()]
    raw = [row for row in rejects_of(store) if "raw" in row["detail"].lower() or "DNG" in row["detail"]]
    full = bool(boxes) and max(boxes) > 160
    return Got(full or bool(raw), outcome_of(ran, store) + (f"; {max(boxes):.0f} px wide" if boxes else ""))


def i10(desk: Desk) -> Got:
    """TIFF of float RGB, float16 and float64 grey: read, or the true reason."""
    colour = np.asarray(desk.portrait) / 255
    grey = np.asarray(desk.portrait.convert("L")) / 255
    made: dict[str, np.ndarray] = {"float32 RGB": colour.astype(np.float32)}
    made |= {"float16 grey": grey.astype(np.float16), "float64 grey": grey}
    outcomes = {}
    for name, pixels in made.items():
        outcomes[name] = desk.prepare(_tiff(pixels, "rgb" if pixels.ndim == 3 else "minisblack"))
    right = [
        "damaged" not in outcome.detail if isinstance(outcome, PhotoRejected) else _right(desk, outcome, grey=True)
        for outcome in outcomes.values()
    ]
    return Got(all(right), _words(outcomes))


def i12(desk: Desk) -> Got:
    """200 megapixels with `--set max_pixels=250000000`: decoded."""
    photo = Image.new("RGB", (16320, 12240), (120, 130, 140))
    photo.paste(desk.portrait.resize((6000, 6000)), (5000, 3000))
    outcome = desk.prepare(desk.encoded(photo, quality=85), max_pixels=250_000_000)
    return Got(not isinstance(outcome, PhotoRejected), told(outcome))


def i13(desk: Desk) -> Got:
    """An animation whose first frame is black: as documented, no crash."""
    black, outcomes = Image.new("RGB", desk.portrait.size), {}
    for format in ("GIF", "WEBP", "PNG"):
        outcomes[format] = desk.prepare(desk.encoded(black, format, save_all=True, append_images=[desk.portrait]))
    documented = [o.reason == "no_face" if isinstance(o, PhotoRejected) else True for o in outcomes.values()]
    return Got(all(documented), _words(outcomes))


def i14(desk: Desk) -> Got:
    """EXIF 1 to 8, MPO, CMYK, palette, LA, 1 bit, 16 bits, AVIF, damaged ICC, wrong suffixes: right."""
    portrait, files = desk.portrait, {}
    for number, turn in _TURN.items():
        exif = Image.Exif()
        exif[0x112] = number
        files[f"EXIF {number}"] = desk.encoded(portrait if turn is None else portrait.transpose(turn), exif=exif)
    for format in ("PNG", "WEBP", "AVIF", "TIFF"):
        exif = Image.Exif()  # a new one: saving as AVIF takes the orientation out of it
        exif[0x112] = 6
        turned = portrait.transpose(Image.Transpose.ROTATE_90)
        files[f"EXIF in {format}"] = desk.encoded(turned, format, exif=exif)
    files["MPO"] = desk.encoded(format="MPO", save_all=True, append_images=[portrait.resize((128, 128))])
    files["motion photo"] = desk.encoded() + b"\0\0\0\x18ftypmp42" + bytes(5000)
    files["CMYK"] = desk.encoded(portrait.convert("CMYK"))
    files["palette"] = desk.encoded(portrait.quantize(255), "PNG")
    files["RGBA"] = desk.encoded(portrait.convert("RGBA"), "PNG")
    files["bad ICC"] = desk.encoded(icc_profile=b"no profile")
    files["16-bit RGB"] = _tiff(np.asarray(portrait).astype(np.uint16) * 257, "rgb")
    files["LA"] = desk.encoded(portrait.convert("LA"), "PNG")
    outcomes = {name: desk.prepare(file) for name, file in files.items()}
    wrong = {
        name: outcome for name, outcome in outcomes.items() if not _right(desk, outcome, grey=name in ("LA", "CMYK"))
    }
    one_bit = desk.prepare(desk.encoded(portrait.convert("1"), "PNG"))  # a dither: refused or used, it must not crash
    return Got(not wrong, _words(wrong) if wrong else f"{len(files)} right; 1 bit: {told(one_bit)}")


def i17(desk: Desk) -> Got:
    """16-bit TIFF in which white is 0: positive; float grey with lights up to 1.2: normal."""
    grey = np.asarray(desk.portrait.convert("L"))
    inverted = _tiff(65535 - grey.astype(np.uint16) * 257, "miniswhite")
    over = _tiff((grey / 255 + 0.2 * (grey > 245)).astype(np.float32), "minisblack")
    return _all_right(desk, {"white is 0": inverted, "up to 1.2": over}, grey=True)


def _tiff(pixels: np.ndarray, photometric: str) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric=photometric)
    return buffer.getvalue()


def _right(desk: Desk, outcome: Outcome, *, grey: bool = False) -> bool:
    return not isinstance(outcome, PhotoRejected) and desk.unlike(outcome[0].crop, grey=grey) < TOLERANCE


def _all_right(desk: Desk, files: Mapping[str, bytes], *, grey: bool = False) -> Got:
    outcomes = {name: desk.prepare(file) for name, file in files.items()}
    return Got(all(_right(desk, outcome, grey=grey) for outcome in outcomes.values()), _words(outcomes))


def _words(outcomes: Mapping[str, Outcome]) -> str:
    return "; ".join(f"{name}: {told(outcome)}" for name, outcome in outcomes.items())


CASES = (i01, i03, i04, i06, i07, i10, i12, i13, i14, i17)
