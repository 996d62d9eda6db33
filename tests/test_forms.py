"""Forms with photos as clients of other languages, mail libraries and phones write them, without Ray."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from factory.ids import content_id
from factory.pack import Pack
from factory.store.tables import Store
from serve.openai.forms import _called
from tests.serving import error_of, people_store
from tests.uploading import FakeLearner, finished, serving, upload

PHOTO = b"a photo " * 40
FIELD = b'--b\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
END = b"--b--\r\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Store:
    return people_store(tmp_path_factory.mktemp("root"), tiny_pack)


@pytest.fixture(scope="module")
def http(store: Store, tiny_pack: Pack) -> Iterator[TestClient]:
    learner = FakeLearner(store, tiny_pack)
    learner.go.set()
    with serving(store, tiny_pack, learner) as http:
        yield http


def send(http: TestClient, body: bytes, boundary: str = "b", path: str = "/v1/identities") -> Any:
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return http.post(path, content=body, headers=headers)


def learned(http: TestClient, store: Store, answer: Any) -> tuple[str, str]:
    """The name of who was learned, and the id of their photo."""
    assert answer.status_code in (200, 202), answer.text
    who = finished(http, answer.json())["result_id"] if answer.status_code == 202 else answer.json()["identity_id"]
    (row,) = store.read("identities", where=f"identity_id = '{who}'").to_pylist()
    return row["name"], row["photo_id"]


@pytest.mark.parametrize(
    "before", [b"", b"\r\n", b"This is a message in MIME format.\r\n\r\n", b"x" * 60_000 + b"\r\n"]
)
@pytest.mark.parametrize("after", [b"", b"what follows is for people, too"])
def test_what_stands_before_and_after_a_form_is_passed_over(
    http: TestClient, store: Store, before: bytes, after: bytes
) -> None:
    data = PHOTO + before[:50]
    body = before + FIELD % (b"image", b'; filename="ada.jpg"', data) + FIELD % (b"name", b"", b"Ada") + END + after
    assert learned(http, store, send(http, body)) == ("Ada", content_id(data))


def test_more_than_a_form_may_begin_with_is_no_form(http: TestClient) -> None:
    body = b"x" * 70_000 + b"\r\n" + FIELD % (b"image", b'; filename="ada.jpg"', PHOTO) + END
    assert send(http, body).status_code == 400


def test_a_form_in_small_pieces_is_the_same_form(http: TestClient, store: Store) -> None:
    data = b"small pieces\r\n--not a boundary"
    body = b"for people\r\n" + FIELD % (b"image", b'; filename="zoe.jpg"', data) + END
    pieces = (body[start : start + 3] for start in range(0, len(body), 3))
    answer = http.post("/v1/identities", content=pieces, headers={"content-type": "multipart/form-data; boundary=b"})
    assert learned(http, store, answer) == ("zoe", content_id(data))


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        ("base64", base64.b64encode(PHOTO)),
        ("BASE64", base64.encodebytes(PHOTO).replace(b"\n", b"\r\n")),
        ("quoted-printable", PHOTO.replace(b"o", b"=6F")),
        ("binary", PHOTO),
        ("8bit", PHOTO),
    ],
)
def test_a_photo_that_is_encoded_as_for_a_mail_is_decoded(
    http: TestClient, store: Store, encoding: str, sent: bytes
) -> None:
    more = b'; filename="m.jpg"\r\ncontent-transfer-encoding: ' + encoding.encode()
    named = b"\r\ncontent-transfer-encoding: quoted-printable"
    body = FIELD % (b"image", more, sent) + FIELD % (b"name", named, b"Zo=C3=AB") + END
    assert learned(http, store, send(http, body))[1] == content_id(PHOTO)
    fresh = FIELD % (b"image", more, sent) + FIELD % (b"consent", named, b"=G") + FIELD % (b"dry_run", b"", b"1") + END
    assert send(http, fresh).status_code == 200, "what is no code in a text stands for itself"


def test_what_is_not_encoded_as_its_part_says_is_told(http: TestClient) -> None:
    more = b'; filename="m.jpg"\r\ncontent-transfer-encoding: base64'
    answer = send(http, FIELD % (b"image", more, b"\xff\xd8 raw") + END)
    assert answer.status_code == 422 and "'m.jpg' is no base64" in error_of(answer)["message"]
    answer = send(http, FIELD % (b"name", b"\r\ncontent-transfer-encoding: base64", b"%") + END)
    assert answer.status_code == 400 and "a field is no base64" in error_of(answer)["message"]


def test_dotnets_form_is_read(http: TestClient, store: Store) -> None:
    boundary = "71e9da95-c5e7-4a9b-901a-ededd613dcd4"
    body = (
        f"--{boundary}\r\nContent-Type: image/jpeg\r\n"
        "Content-Disposition: form-data; name=image; filename=eva.jpg; filename*=utf-8''eva.jpg\r\n\r\neva\r\n"
        f"--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Disposition: form-data; name=preset\r\n\r\nrelease\r\n--{boundary}--\r\n"
    )
    assert learned(http, store, send(http, body.encode(), f'"{boundary}"')) == ("eva", content_id(b"eva"))


@pytest.mark.parametrize("field", ["image", "image[]", "image[0]", "image[1]"])
def test_photos_are_found_however_a_client_counts_them(http: TestClient, store: Store, field: str) -> None:
    answer = http.post("/v1/identities", files={field: ("ida.jpg", field.encode())})
    assert learned(http, store, answer) == ("ida", content_id(field.encode()))


@pytest.mark.parametrize("path", ["/v1/identities", "/v1/images/edits"])
@pytest.mark.parametrize("field", ["file", "photo", "images[]", "avatar"])
def test_a_photo_in_another_field_is_told_with_that_field(http: TestClient, path: str, field: str) -> None:
    answer = http.post(path, files={field: ("a.jpg", b"x")}, data={"prompt": "<person>"})
    assert answer.status_code == 422 and error_of(answer)["param"] == "image"
    assert error_of(answer)["message"] == f"the file came as '{field}': send it as `image`"


def test_photos_that_phones_call_alike_are_people_of_their_own_names(http: TestClient, store: Store) -> None:
    names = [learned(http, store, upload(http, data, "image.jpg"))[0] for data in (b"phone 1", b"phone 2")]
    assert names == [f"photo-{content_id(data)[:8]}" for data in (b"phone 1", b"phone 2")]
    drawn = [
        http.post("/v1/images/generations", json={"model": name, "prompt": "x"}).json()["identity"] for name in names
    ]
    assert len(set(drawn)) == 2
    assert http.post("/v1/images/generations", json={"model": "image", "prompt": "x"}).status_code == 404
    named = upload(http, b"phone 3", "image.jpg", name="image")
    assert learned(http, store, named)[0] == "image", "whoever says so is called so"


@pytest.mark.parametrize("filename", ["image.jpg", "IMAGE1.JPEG", "photo (2).heic", "blob", "unknown.png", "", None])
def test_names_that_every_photo_has_are_none(filename: str | None) -> None:
    assert _called(filename, b"x") == f"photo-{content_id(b'x')[:8]}"


@pytest.mark.parametrize("filename", ["IMG_2041.HEIC", "imagine.jpg", "photo of ada.jpg", "1.jpg", "blob-fish.png"])
def test_other_names_are_kept(filename: str) -> None:
    assert _called(filename, b"x") == filename.rpartition(".")[0]
