"""The page and the routes that show what a root holds, without a browser and without Ray."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from factory.config import GenerateConfig
from factory.pack import Pack, load_pack
from factory.records import GeneratedImage, PictureMetrics
from factory.store.rows import image_row, metrics_row
from factory.store.tables import Store
from tests import serving, uploading
from tests.serving import FakeGenerator, client_of, error_of
from tests.uploading import FakeLearner

store, fake, http = serving.store, serving.fake, serving.http  # fixtures
STATIC = Path(__file__).parent.parent / "serve" / "web" / "static"


def drawn(number: int) -> GeneratedImage:
    return GeneratedImage(
        image_id=f"{number:016x}",
        identity_id=f"{1 + number % 2:016x}",
        name=("ada", "bob")[number % 2],
        prompt="a photo of <person>",
        seed=number,
        image=np.full((64, 128, 3), number, np.uint8),
        config=json.dumps(GenerateConfig(width_px=128).model_dump()),
        created_at=f"2026-01-0{1 + number}T00:00:00+00:00",
    )


@pytest.fixture
def gallery(store: Store) -> Store:
    store.upsert("images", [image_row(drawn(number)) for number in range(5)])
    return store


def test_the_page_allows_nothing_but_its_own_files(http: TestClient) -> None:
    page = http.get("/")
    policy = page.headers["content-security-policy"]
    assert page.status_code == 200 and "default-src 'none'" in policy and "unsafe" not in policy
    assert "style=" not in page.text and " on" + "click" not in page.text
    addresses = re.findall(r'<(\w+)[^>]+?(?:src|href)="([^"#]+)"', page.text)
    assert {tag for tag, _ in addresses} >= {"script", "link"}
    for tag, address in addresses:
        assert not address.startswith("/"), "relative: a proxy may have put the page below a path"
        assert http.get(f"/{address}").status_code == 200, (tag, address)
    scripts = re.findall(r"<script(.*?)>(.*?)</script>", page.text, re.DOTALL)
    assert scripts and all("src=" in attributes or "application/json" in attributes for attributes, _ in scripts)
    assert http.head("/").status_code == 200


def test_every_script_and_style_is_served_and_reaches_only_its_neighbours(http: TestClient) -> None:
    names, imported = {file.name for file in STATIC.iterdir()}, set[str]()
    for name in names:
        got = http.get(f"/web/{name}")
        assert got.status_code == 200 and got.headers["x-content-type-options"] == "nosniff", name
        assert http.get(f"/web/{name}", headers={"if-none-match": got.headers["etag"]}).status_code == 304
        for other in re.findall(r'from "\./([^"]+)"', got.text):
            assert other in names, (name, other)
            imported.add(other)
        assert set(re.findall(r"https?://[^\s\"']+", got.text)) <= {"http://www.w3.org/2000/svg"}, name
        assert "innerHTML" not in got.text and "eval(" not in got.text, name
    assert {"api.js", "dom.js", "state.js"} <= imported
    assert {http.get(f"/web/{name}").status_code for name in ("..%2Fpage.py", "nothing.js", "page.py")} == {404}


def test_the_page_shows_only_what_the_server_has_routes_for(http: TestClient, store: Store, tiny_pack: Pack) -> None:
    def facts(of: TestClient) -> Any:
        return json.loads(re.findall(r'id="facts">(.*?)</script>', of.get("/").text)[0])

    looking = facts(http)
    assert set(looking["has"]) == {"images", "faces", "poses", "jobs"}
    assert looking["side"] == 64 and looking["steps"] == 2
    learning = facts(uploading.serving(store, tiny_pack, FakeLearner(store, tiny_pack)))
    assert set(learning["has"]) == {*looking["has"], "learn", "forget", "work"}


def test_pictures_are_listed_newest_first_page_by_page(http: TestClient, gallery: Store) -> None:
    first = http.get("/v1/images?limit=2").json()
    assert [image["seed"] for image in first["data"]] == [4, 3] and first["has_more"]
    rest = http.get(f"/v1/images?limit=9&after={first['last_id']}").json()
    assert [image["seed"] for image in rest["data"]] == [2, 1, 0] and not rest["has_more"]
    (one, other) = http.get("/v1/images?identity=bob").json()["data"]
    assert (one["model"], one["size"], one["likeness"]) == ("bob", "128x64", None) and other["seed"] == 1
    assert error_of(http.get("/v1/images?after=nobody"))["param"] == "after"
    assert http.get("/v1/images?identity=nobody").status_code == 404
    assert http.get("/v1/images?limit=0").status_code == 422


def test_a_picture_is_kept_by_the_browser_and_gone_with_its_person(http: TestClient, gallery: Store) -> None:
    whole, small = (http.get(f"/v1/images/{3:016x}/{kind}") for kind in ("content", "thumbnail"))
    assert (np.asarray(Image.open(io.BytesIO(whole.content))) == 3).all()
    assert Image.open(io.BytesIO(small.content)).size == (128, 64)
    again = {"if-none-match": whole.headers["etag"]}
    assert http.get(f"/v1/images/{3:016x}/content", headers=again).status_code == 304
    gallery.delete("images", f"image_id = '{3:016x}'")
    assert http.get(f"/v1/images/{3:016x}/content", headers=again).status_code == 404


def test_what_was_measured_stands_beside_the_picture(http: TestClient, gallery: Store) -> None:
    nothing = np.zeros(0, np.float32)
    for number, face_sim in ((4, 0.625), (3, float("nan"))):
        metrics = PictureMetrics(
            **dict.fromkeys(("clip_i", "clip_t", "face_div", "trusted_div"), 0.0),
            image_id=f"{number:016x}", protocol="p", identity_id="", prompt="", seed=0, face_sim=face_sim,
            face_embedding=nothing, features=nothing, created_at="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        gallery.upsert("metrics", [metrics_row(metrics)])
    assert [image["likeness"] for image in http.get("/v1/images").json()["data"]] == [0.625, None, None, None, None]


def test_poses_are_those_of_the_pack(store: Store, fake: FakeGenerator) -> None:
    studio = client_of(store, load_pack("studio"), fake)
    names = [pose["id"] for pose in studio.get("/v1/poses").json()["data"]]
    assert "front" in names and len(names) > 5
    front, left = (studio.get(f"/v1/poses/{name}/content").content for name in ("front", "left"))
    assert front != left and Image.open(io.BytesIO(left)).size == (128, 128)
    assert studio.get("/v1/poses/nowhere/content").status_code == 404


def test_a_pack_without_named_poses_has_none(http: TestClient) -> None:
    assert http.get("/v1/poses").json()["data"] == []


def test_a_report_can_do_nothing(http: TestClient, store: Store) -> None:
    folder = Path(store.root) / "jobs" / "20260101T000000Z-train-abcdef"
    folder.mkdir(parents=True)
    event = {"event": "started", "at": "2026-01-01T00:00:00+00:00", "job_id": folder.name}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    (running,) = http.get("/v1/jobs").json()["data"]
    assert running["status"] == "unfinished" and not running["report"] and running["kind"] == "train"
    assert http.get(f"/v1/jobs/{folder.name}/report").status_code == 404
    (folder / "summary.json").write_text(json.dumps({"job": "train", "identities": 3, "rejected": {"no_face": 2}}))
    (folder / "report.html").write_text("<!doctype html><script>alert(1)</script>")
    (done,) = http.get("/v1/jobs").json()["data"]
    assert done["status"] == "completed" and done["counts"]["identities"] == 3 and done["rejected"] == {"no_face": 2}
    report = http.get(f"/v1/jobs/{folder.name}/report")
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    for bad in ("..", "%2e%2e", "a%2Fb", "..%2f..%2fidentities.lance"):
        assert http.get(f"/v1/jobs/{bad}/report").status_code == 404


def test_a_face_that_is_not_kept_is_told(http: TestClient) -> None:
    for kind in ("thumbnail", "masks"):
        assert http.get(f"/v1/identities/ada/{kind}").status_code == 404
        assert error_of(http.get(f"/v1/identities/nobody/{kind}"))["code"] == "model_not_found"
