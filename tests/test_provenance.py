"""Marks on what leaves: written by factory/provenance, read back by Pillow (not of a GIF), FFmpeg, and a parser and
verifier of its own here (JUMBF, CBOR, COSE: C2PA specification 2.1), which knows nothing of the library that signs."""

import base64
import io
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import av
import cbor2
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from PIL import Image
from typer.testing import CliRunner

from cli.__main__ import app
from factory.draw.clips import decode_mp4, encode_gif, encode_mp4, encode_webp
from factory.pack import Pack
from factory.provenance.credentials import SELF_SIGNED, Credentials, make_self_signed
from factory.provenance.marks import PARAMETERS, Marker, mark_with, read_claim
from factory.provenance.xmp import SOURCE_TYPE, packet, with_xmp, without_marks
from factory.store.rows import encode_png
from factory.store.tables import Store
from tests.serving import FakeGenerator, ask, client_of, people_store

MADE = {"prompt": 'a photo of <person> & \x0b"friends"', "seed": 7}
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
KINDS = ["png", "jpeg", "webp", "webp-lossless", "webp-moving", "gif", "gif-moving", "mp4"]


def a_file(kind: str) -> bytes:
    clip = np.stack([PICTURE, PICTURE[::-1], PICTURE[:, ::-1]])
    if kind == "mp4":
        return encode_mp4(clip, 8)
    if kind.endswith("-moving"):
        return (encode_gif if kind.startswith("gif") else encode_webp)(clip, 125.0)
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, kind.partition("-")[0].upper(), **({"lossless": True} if "-" in kind else {}))
    return buffer.getvalue()


def xmp_of(data: bytes) -> str:
    """By Pillow; of an MP4 by FFmpeg."""
    if data[4:8] == b"ftyp":
        with av.open(io.BytesIO(data), options={"export_xmp": "1"}) as container:
            return container.metadata["xmp"]
    if data[:3] == b"GIF":  # Pillow passes the block over
        return xmp_of_gif(data)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG" or picture.getxmp(), "Pillow parses it"
        found: Any = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp")
    return found.decode() if isinstance(found, bytes) else found


def xmp_of_gif(data: bytes) -> str:
    """The packet, whose bytes a reader that knows nothing of XMP must be able to pass over as sub-blocks."""
    start = at = data.index(b"\x21\xff\x0bXMP DataXMP") + 14
    while data[at]:
        at += 1 + data[at]
    assert data[at + 1] in b"\x21\x2c", "the next block begins where the lengths lead to"
    end = data.index(b'<?xpacket end="r"?>', start) + 19
    assert end < at
    return data[start:end].decode()


def pixels(data: bytes) -> np.ndarray:
    if data[4:8] == b"ftyp":
        return decode_mp4(data)
    with Image.open(io.BytesIO(data)) as picture:
        frames = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames)


def manifest_store(data: bytes) -> bytes:
    """The JUMBF boxes of a file, as C2PA's specification says where they are (appendix A)."""
    if data.startswith(b"\x89PNG"):
        at = data.index(b"caBX")
        return data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")]
    if data[:4] == b"RIFF":
        at = data.index(b"C2PA")
        return data[at + 8 : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")]
    if data[4:8] == b"ftyp":
        at = data.index(bytes.fromhex("d8fec3d61b0e483c92975828877ec481"))
        return data[data.index(b"jumb", at) - 4 :]
    if data[:3] == b"GIF":
        at = data.index(b"\x21\xff\x0bC2PA_GIF") + 14
        blocks = b""
        while size := data[at]:
            blocks, at = blocks + data[at + 1 : at + 1 + size], at + 1 + size
        return blocks
    parts, at = [], 2  # JPEG: APP11 segments: "JP", box number, sequence number, then the box; headers repeat after it
    while data[at : at + 2] != b"\xff\xda":
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xEB and data[at + 4 : at + 6] == b"JP":
            body = data[at + 12 : at + 2 + size]
            parts.append(body if not parts else body[8:])
        at += 2 + size
    return b"".join(parts)


def boxes(data: bytes, label: str = "") -> dict[str, bytes]:
    """The content of each labelled JUMBF superbox."""
    found: dict[str, bytes] = {}
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if size < 8:
            break
        body = data[at + 8 : at + size]
        if kind == b"jumb":
            description = body[8 : int.from_bytes(body[:4], "big")]
            own = description[17:].partition(b"\0")[0].decode()
            found |= boxes(body[int.from_bytes(body[:4], "big") :], own)
        elif label:
            found[label] = body
        at += size
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_that_a_model_made_it_and_how(kind: str) -> None:
    plain, credentials = a_file(kind), make_self_signed()
    marked = Marker(credentials).mark(plain, MADE)
    text = xmp_of(marked)
    assert f"<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}<" in text
    assert "a photo of &lt;person&gt; &amp; " in text and "\x0b" not in text
    np.testing.assert_array_equal(pixels(marked), pixels(plain))
    claim = read_claim(marked, credentials)
    assert claim is not None and claim.synthetic and claim.state == "Trusted" and claim.signer == SELF_SIGNED
    other = read_claim(marked, make_self_signed())
    assert other is not None and other.state == "Valid", "somebody else's certificate"
    assert read_claim(plain, credentials) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_signature_holds_by_a_verifier_of_another_kind(kind: str) -> None:
    parts = boxes(manifest_store(Marker(make_self_signed()).mark(a_file(kind))))
    assert SOURCE_TYPE in json.dumps(cbor2.loads(parts["c2pa.actions.v2"]))
    sign1 = cbor2.loads(parts["c2pa.signature"])
    protected, unprotected, _, signature = sign1.value
    headers = cbor2.loads(protected)
    assert headers[1] == -7, "ES256"
    chain = headers.get(33) or unprotected[33]
    certificate = x509.load_der_x509_certificate(chain[0] if isinstance(chain, list) else chain)
    claim = parts["c2pa.claim.v2"]
    signed = cbor2.dumps(["Signature1", protected, b"", claim])
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    public = certificate.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))


def test_a_changed_file_is_found_out() -> None:
    credentials = make_self_signed()
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG")
    marked = bytearray(Marker(credentials).mark(buffer.getvalue()))
    marked[-20] ^= 1
    claim = read_claim(bytes(marked), credentials)
    assert claim is not None and claim.state == "Invalid"


def test_a_marked_png_gives_the_stored_bytes_back() -> None:
    png = encode_png(PICTURE)
    assert without_marks(Marker(make_self_signed()).mark(png, MADE)) == png


def test_parameters_may_stay_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PARAMETERS, "0")
    text = xmp_of(Marker.of(str(tmp_path)).mark(encode_png(PICTURE), MADE))
    assert "person" not in text and SOURCE_TYPE in text


def test_a_prompt_too_long_for_a_segment_of_jpeg_is_left_out() -> None:
    text = xmp_of(with_xmp(a_file("jpeg"), packet({"prompt": "x" * 70_000})))
    assert SOURCE_TYPE in text and "xxx" not in text


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_pictures_of_the_endpoint_are_marked(tiny_pack: Pack, tmp_path: Path, output_format: str) -> None:
    root = people_store(tmp_path, tiny_pack)
    mark_with(Marker.of(root.root))
    try:
        http = client_of(root, tiny_pack, FakeGenerator())
        answer = ask(http, output_format=output_format, seed=5)
        streamed = ask(http, output_format=output_format, seed=5, stream=True, partial_images=1)
    finally:
        mark_with(None)
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert len(events) == 2
    for text in [answer.json()["data"][0]["b64_json"], *(event["b64_json"] for event in events)]:
        data = base64.b64decode(text)
        claim = read_claim(data, Credentials.of(root.root))
        assert claim is not None and claim.state == "Trusted"
        assert SOURCE_TYPE in xmp_of(data) and '"seed": 5' in xmp_of(data)


def test_gifs_addresses_and_the_gallery_are_marked(tmp_path: Path, tiny_pack: Pack) -> None:
    root = people_store(tmp_path, tiny_pack)
    row = {"image_id": "1" * 16, "identity_id": f"{1:016x}", "name": "ada", "prompt": "p", "seed": 1, "config": "{}"}
    root.upsert("images", [row | {"image": encode_png(PICTURE), "created_at": "2026-01-01", "pose": ""}])
    mark_with(Marker.of(root.root))
    try:
        http = client_of(root, tiny_pack, FakeGenerator())
        address = ask(http, response_format="url", seed=5).json()["data"][0]["url"]
        sent = [http.get(address), *(http.get(f"/v1/images/{'1' * 16}/{kind}") for kind in ("content", "thumbnail"))]
        again = http.get(f"/v1/images/{'1' * 16}/content", headers={"if-none-match": sent[1].headers["etag"]})
    finally:
        mark_with(None)
    assert again.status_code == 304, "the tag is of the picture, not of its signature"
    for answer in sent:
        claim = read_claim(answer.content, Credentials.of(root.root))
        assert claim is not None and claim.state == "Trusted" and SOURCE_TYPE in xmp_of(answer.content)
    assert without_marks(sent[1].content) == encode_png(PICTURE)


def test_verify_tells_whose_picture_it_is(tmp_path: Path) -> None:
    root = tmp_path / "root"
    row = {"image_id": "1" * 16, "identity_id": "2" * 16, "name": "ada", "prompt": "p", "seed": 1, "config": "{}"}
    Store(root).upsert("images", [row | {"image": encode_png(PICTURE), "created_at": "2026-01-01", "pose": ""}])
    ours, theirs, bare = tmp_path / "ours.png", tmp_path / "theirs.png", tmp_path / "bare.webp"
    ours.write_bytes(Marker.of(str(root)).mark(encode_png(PICTURE)))
    theirs.write_bytes(Marker(make_self_signed()).mark(encode_png(PICTURE[::-1])))
    Image.fromarray(PICTURE).save(bare, "WEBP", lossless=True)
    run = CliRunner()
    told = {path.name: run.invoke(app, ["verify", str(path), "--root", str(root)]) for path in (ours, theirs, bare)}
    assert told["ours.png"].exit_code == 0 and "valid, signed by this root" in told["ours.png"].output
    assert "1" * 16 in told["ours.png"].output
    assert told["theirs.png"].exit_code == 3 and "somebody else" in told["theirs.png"].output
    assert told["bare.webp"].exit_code == 0 and "1" * 16 in told["bare.webp"].output, "by its pixels alone"
    shutil.rmtree(root / "credentials")
    again = run.invoke(app, ["verify", str(ours), "--root", str(root)])
    assert again.exit_code == 0 and "valid, signed by somebody else" in again.output, "it signed nothing"
    assert not (root / "credentials").exists(), "which may be mounted to be read only"


def test_verify_tells_changed_from_unknown(tmp_path: Path) -> None:
    root = tmp_path / "root"
    row = {"image_id": "1" * 16, "identity_id": "2" * 16, "name": "ada", "prompt": "p", "seed": 1, "config": "{}"}
    Store(root).upsert("images", [row | {"image": encode_png(PICTURE), "created_at": "2026-01-01", "pose": ""}])
    signed = Marker.of(str(root)).mark(encode_png(PICTURE))
    end = signed.rindex(b"IEND") - 4
    more = b"tEXtnote\0later"
    changed = (
        signed[:end] + (len(more) - 4).to_bytes(4, "big") + more + zlib.crc32(more).to_bytes(4, "big") + signed[end:]
    )
    jpeg, text = io.BytesIO(), b"no picture"
    Image.fromarray(PICTURE).save(jpeg, "JPEG")
    run, told = CliRunner(), dict[str, Any]()
    for name, data in (("changed.png", changed), ("chat.jpg", jpeg.getvalue()), ("note.txt", text)):
        (tmp_path / name).write_bytes(data)
        told[name] = run.invoke(app, ["verify", str(tmp_path / name), "--root", str(root)])
    assert told["changed.png"].exit_code == 4 and "was changed after it was signed" in told["changed.png"].output
    assert "1" * 16 in told["changed.png"].output and "made it" not in told["changed.png"].output
    assert told["chat.jpg"].exit_code == 3 and "no proof that it did not" in told["chat.jpg"].output
    assert told["note.txt"].exit_code == 1 and "is no PNG, JPEG" in told["note.txt"].output
