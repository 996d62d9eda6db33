"""Marks on heads and Parquet files: written by factory/provenance, read back by plyfile, gsply, trimesh, pyarrow, and
by hand after RFC 1952 and Khronos' KHR_xmp_json_ld; credentials beside them by the reader of test_provenance.py."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import cbor2
import gsply
import numpy as np
import pyarrow.parquet as pq
import pytest
import trimesh
from plyfile import PlyData
from typer.testing import CliRunner

from cli.__main__ import app
from factory.draw.clips import encode_mp4
from factory.draw.splat_files import export_head, from_ply, head_as, to_ply
from factory.provenance.credentials import SELF_SIGNED, Credentials, make_self_signed
from factory.provenance.exports import ModelKind, content_of, model_kind, remarks
from factory.provenance.marks import PARAMETERS, Marker, mark_with, read_claim
from factory.provenance.xmp import SOURCE_TYPE, without_marks
from factory.store.rows import encode_png
from factory.store.tables import Store
from pipelines.sculpt import write_heads
from tests.test_provenance import PICTURE, boxes, xmp_of
from tests.test_splat_files import some

MADE = {"prompt": 'a photo of <person> & "friends"\n' + "\u00e4" * 2000, "seed": 7}
PLY = to_ply(some(1))
KINDS: list[ModelKind] = ["ply", "spz", "glb"]


def said(data: bytes, tmp_path: Path) -> dict[str, Any]:
    """What a file says of its making, and that its own library reads it all the same."""
    if model_kind(data) == "ply":
        read = PlyData.read(io.BytesIO(data))
        np.testing.assert_array_equal(read["vertex"]["x"], PlyData.read(io.BytesIO(PLY))["vertex"]["x"])
        assert all(len(comment) < 1000 for comment in read.comments)
        parts: dict[str, str] = {}
        for comment in read.comments:
            if comment.startswith("xmp "):
                _, name, text = comment.split(" ", 2)
                parts[name] = parts.get(name, "") + text
        return {name: json.loads(f'"{text}"') for name, text in parts.items()}
    if model_kind(data) == "spz":
        (tmp_path / "head.spz").write_bytes(data)
        (tmp_path / "plain.spz").write_bytes(export_head(PLY, "spz"))
        theirs, plain = (gsply.read_spz(str(tmp_path / name)) for name in ("head.spz", "plain.spz"))
        np.testing.assert_array_equal(theirs.means, plain.means)
        assert data[3] == 0x10, "RFC 1952: a comment, ended by a zero, behind ten bytes"
        lines = data[10 : data.index(b"\0", 10)].decode("latin-1").split("\n")
        return {name: json.loads(f'"{text}"') for name, _, text in (line.partition("=") for line in lines)}
    scene = trimesh.load_scene(io.BytesIO(data), file_type="glb")
    assert len(next(iter(scene.geometry.values())).vertices) == len(from_ply(PLY))
    (length,) = struct.unpack_from("<I", data, 12)
    document = json.loads(data[20 : 20 + length])
    assert struct.unpack_from("<I", data, 8) == (len(data),) and length % 4 == 0
    assert "KHR_xmp_json_ld" in document["extensionsUsed"]
    packet: dict[str, Any] = document["extensions"]["KHR_xmp_json_ld"]["packets"][
        document["asset"]["extensions"]["KHR_xmp_json_ld"]["packet"]
    ]
    assert packet.pop("@context")["Iptc4xmpExt"] == "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    assert packet.pop("@id") == ""
    return packet


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_says_that_a_model_made_it_and_how(kind: ModelKind, tmp_path: Path) -> None:
    plain = head_as(PLY, kind)
    marked = Marker(None).mark(plain, MADE)
    told = said(marked, tmp_path)
    assert told == remarks(marked) and remarks(plain) == {}
    assert told["Iptc4xmpExt:DigitalSourceType"] == SOURCE_TYPE
    assert told["Iptc4xmpExt:AIPromptInformation"] == MADE["prompt"]
    assert json.loads(told["idf:parameters"]) == MADE
    assert content_of(marked) == content_of(plain)
    assert marked == Marker(None).mark(head_as(PLY, kind), MADE), "the same bytes each time, for what lies beside it"
    assert json.loads(json.dumps(said(Marker(None, parameters=False).mark(plain, MADE), tmp_path))).keys() == {
        "Iptc4xmpExt:DigitalSourceType", "Iptc4xmpExt:AISystemUsed", "xmp:CreatorTool"
    }  # fmt: skip


def test_what_is_in_a_ply_is_its_gaussians_alone() -> None:
    for degree in (0, 1):
        stored = to_ply(some(degree))
        same = [stored, *(export_head(stored, kind) for kind in ("ply", "plain-ply"))]
        same.append(Marker(None).mark(same[1], MADE))
        assert len({content_of(data) for data in same}) == 1 and len(set(same)) == 4
        other = bytearray(same[2])
        other[-1] ^= 1
        assert content_of(bytes(other)) != content_of(stored) != content_of(stored[:-4])
    assert content_of(b"ply\nend_header\n123") != content_of(b"ply\nend_header\n124"), "whatever it is"


def test_credentials_beside_a_file_are_of_its_bytes() -> None:
    credentials, data = make_self_signed(), Marker(None).mark(PLY, MADE)
    beside = Marker(credentials).beside(data)
    assert beside is not None and Marker(None).beside(data) is None
    parts = boxes(beside)
    assert SOURCE_TYPE in json.dumps(cbor2.loads(parts["c2pa.actions.v2"]))
    assert cbor2.loads(parts["c2pa.hash.data"])["hash"] == hashlib.sha256(data).digest()
    claim = read_claim(data, credentials, beside)
    assert claim is not None and (claim.state, claim.signer, claim.synthetic) == ("Trusted", SELF_SIGNED, True)
    other, changed = read_claim(data, make_self_signed(), beside), read_claim(data + b"\0", credentials, beside)
    assert other is not None and other.state == "Valid" and changed is not None and changed.state == "Invalid"


def a_root(tmp_path: Path) -> Store:
    store = Store(tmp_path / "root")
    clip = encode_mp4(np.stack([PICTURE, PICTURE[::-1]]), 8)
    who = {"identity_id": "2" * 16, "name": "ada", "prompt": "a photo of <person>", "created_at": "2026-01-01"}
    head = {"splats": PLY, "turntable": clip, "poster": encode_png(PICTURE), "num_gaussians": 30, "num_iterations": 1}
    store.upsert("models", [who | head | {"model_id": "3" * 16, "seconds": 1.0, "config": "{}"}])
    image = {"image": encode_png(PICTURE), "seed": 1, "config": "{}", "pose": ""}
    store.upsert("images", [who | image | {"image_id": f"{n:016x}"} for n in range(2)])
    return store


def test_exported_heads_have_credentials_and_are_known_again(tmp_path: Path) -> None:
    store, run = a_root(tmp_path), CliRunner()
    for file_format, suffix in (("ply", "ply"), ("spz", "spz"), ("gltf", "glb"), ("mp4", "mp4")):
        [file] = write_heads(store, ["3" * 16], tmp_path / "out", file_format)  # type: ignore[arg-type]
        assert file.suffix == f".{suffix}" and SOURCE_TYPE.encode() in file.read_bytes()
        assert file.with_name(f"{file.name}.c2pa").exists() == (suffix != "mp4")
        told = run.invoke(app, ["verify", str(file), "--root", store.root])
        assert told.exit_code == 0 and "valid, signed by this root" in told.output and "3" * 16 in told.output
    [plain] = write_heads(store, ["3" * 16], tmp_path / "out", "plain-ply")
    assert b"comment" not in plain.read_bytes() and (tmp_path / "out" / "ada-3333333333333333.ply").exists()
    for data in (plain.read_bytes(), Marker(None).mark(PLY, MADE), PLY):  # the last as they left before, and are stored
        old = tmp_path / "old.ply"
        old.write_bytes(data)
        told = run.invoke(app, ["verify", str(old), "--root", store.root])
        assert told.exit_code == 0 and "3" * 16 in told.output, "by its Gaussians alone"
    told = run.invoke(app, ["verify", str(plain), "--root", store.root])
    assert told.exit_code == 0 and "valid, signed by this root" in told.output, "beside it"
    plain, stranger = tmp_path / "plain.spz", tmp_path / "stranger.ply"
    plain.write_bytes(export_head(PLY, "spz"))
    stranger.write_bytes(to_ply(some(0)))
    known, unknown = (run.invoke(app, ["verify", str(file), "--root", store.root]) for file in (plain, stranger))
    assert known.exit_code == 0 and "3" * 16 in known.output, "by its Gaussians alone"
    assert unknown.exit_code == 3 and "nothing here holds the same" in unknown.output


def test_exported_tables_say_what_a_model_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, run = a_root(tmp_path), CliRunner()
    credentials = Credentials.of(store.root)
    out = ["--root", store.root, "--format", "parquet", "--out", str(tmp_path)]
    for table, columns in (("images", ["image"]), ("models", ["splats", "poster", "turntable"])):
        assert run.invoke(app, ["identities", "export", *out, "--table", table]).exit_code == 0
        file = tmp_path / f"{table}.parquet"
        read = pq.read_table(file)
        assert len(read) > 0 and read.select(columns).drop_null().num_rows == len(read)
        assert pq.read_schema(file).metadata[b"Iptc4xmpExt:DigitalSourceType"] == SOURCE_TYPE.encode()
        claim = read_claim(file.read_bytes(), credentials, file.with_name(f"{file.name}.c2pa").read_bytes())
        assert claim is not None and claim.state == "Trusted" and claim.synthetic
        for column in columns:
            for data in read[column].to_pylist():
                assert SOURCE_TYPE in (xmp_of(data) if column != "splats" else str(remarks(data)))
        told = run.invoke(app, ["verify", str(file), "--root", store.root])
        assert told.exit_code == 0 and f"{len(read)} of {len(read)}" in told.output
    assert [without_marks(data) for data in pq.read_table(tmp_path / "images.parquet")["image"].to_pylist()] == [
        encode_png(PICTURE)
    ] * 2
    assert run.invoke(app, ["identities", "export", *out, "--table", "identities"]).exit_code == 0
    assert not (tmp_path / "identities.parquet.c2pa").exists(), "words are no pictures"
    assert b"Iptc4xmpExt:DigitalSourceType" not in (pq.read_schema(tmp_path / "identities.parquet").metadata or {})
    monkeypatch.setenv(PARAMETERS, "0")
    assert run.invoke(app, ["identities", "export", *out, "--table", "images", "--overwrite"]).exit_code == 0
    [first, _] = pq.read_table(tmp_path / "images.parquet")["image"].to_pylist()
    assert "<person>" not in xmp_of(first) and "&lt;person" not in xmp_of(first) and SOURCE_TYPE in xmp_of(first)


def test_marks_of_a_process_are_beside_too() -> None:
    credentials = make_self_signed()
    mark_with(Marker(credentials))
    try:
        from factory.provenance.marks import beside

        claim = read_claim(PLY, credentials, beside(PLY))
    finally:
        mark_with(None)
    assert claim is not None and claim.state == "Trusted" and beside(PLY) is None
