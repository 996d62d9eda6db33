"""Masks beside the photos that they are of."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import skimage.data
from PIL import Image

from pipelines.photos.masks import masks_among
from pipelines.photos.places import find_places
from tests.sources import named, write


def test_what_is_of_a_photo_is_known_by_its_place_or_its_name() -> None:
    photos = ["set/images/a.jpg", "set/images/b.jpg", "x/c.jpg", "x/d_image.png", "x/e.jpg", "RGB/deep/er/f.png"]
    masks = ["set/masks/a.png", "set/Alpha/b.png", "x/c_mask.png", "x/c.seg.png", "x/d_mask.png", "depth/deep/er/f.exr"]
    assert masks_among([*photos, *masks]) == set(masks)


def test_nobody_is_left_out_for_a_name() -> None:
    """People's folders with a 1.jpg in each, masks without their photo, and who is called so."""
    paths = [
        "alpha/1.jpg",
        "ada/1.jpg",
        "mask/1.jpg",
        "no_mask/1.jpg",
        "masks/lonely.png",
        "big_mask.jpg",
        "images/x.jpg",
    ]
    assert masks_among([*paths, "the mask.jpg"]) == set()


def test_a_normal_face_is_no_map_of_normals() -> None:
    paths = ["ada.jpg", "ada_normal.jpg", "ada_smiling.jpg", "bob.png", "bob_normal.png", "bob.normals.jpg"]
    assert masks_among(paths) == {"bob_normal.png", "bob.normals.jpg"}
    assert masks_among(["ada.HEIC", "ada-normal.HEIC", "x/c.jpg", "x/c-normal.exr"]) == {"x/c-normal.exr"}


def picture(kind: str, image: Image.Image, **how: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def test_who_wears_a_mask_is_no_mask(tmp_path: Path) -> None:
    """Colour photos are read whatever they are called; masks of one colour, of classes, grey ones stay left out."""
    photo = Image.fromarray(skimage.data.astronaut())
    shape = photo.convert("L").point(lambda level: 255 * (level > 128))
    areas = shape.resize((4, 4), Image.Resampling.NEAREST).resize(photo.size, Image.Resampling.NEAREST)
    classes = Image.merge("RGB", (areas, areas.rotate(90), areas.rotate(180)))
    for name in ("1.jpg", "2.jpg", "images/a.jpg", "3.jpg", "4.jpg", "5.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture("JPEG", photo.rotate(len(name))))
    worn = {"1_Mask.jpg": "JPEG", "2-mask.png": "PNG", "masks/a.jpg": "JPEG"}
    masks = {
        "3_mask.png": ("PNG", shape),
        "4_mask.jpg": ("JPEG", shape.convert("RGB")),
        "5_mask.jpg": ("JPEG", classes),
    }
    (tmp_path / "masks").mkdir()
    for name, kind in worn.items():
        (tmp_path / name).write_bytes(picture(kind, photo))
    for name, (kind, image) in masks.items():
        (tmp_path / name).write_bytes(picture(kind, image))
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name in ("1.jpg", "1_Mask.jpg", "3.jpg", "3_mask.png"):
            archive.add(tmp_path / name, f"in/{name}")
    places = find_places(str(tmp_path))
    assert places.left_out == {"mask or the like of a photo": 4}
    uris = {row["member"] or row["uri"] for row in places.table.to_pylist()}
    assert {b"in/1_Mask.jpg", *(f"{tmp_path}/{name}".encode() for name in worn)} < uris and len(uris) == 6 + 3 + 3
    [told] = places.told
    assert told.startswith(f"left out as masks or the like of a photo, by their names: {tmp_path}/3_mask.png, ")


def test_the_photo_has_its_name_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", "image/a.png", "mask/a.png", "b.jpg", "b-mask.png")
    with tarfile.open(folder / "0.tar", "w") as archive:
        for name in ("000.jpg", "000.mask.png", "000.json", "001.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, BytesIO(name.encode()))
    assert named(folder) == {"a": b"image/a.png", "b": b"b.jpg", "000": b"000.jpg", "001": b"001.jpg"}
    assert find_places(str(folder)).left_out == {"mask or the like of a photo": 3, "sidecar": 1}
