"""Pictures of who is on an uploaded photo, in one call, as the openai client asks for them; without Ray."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import openai
import pytest
from openai.types import ImagesResponse, image_edit_params
from openai.types.image_edit_completed_event import ImageEditCompletedEvent
from openai.types.image_edit_partial_image_event import ImageEditPartialImageEvent
from PIL import Image
from starlette.testclient import TestClient

from factory.pack import Pack
from factory.store.tables import Store
from serve.learning import Diverged
from serve.openai.contract import IMAGES_EDIT
from serve.openai.edits import EditsRequest
from tests.serving import FakeGenerator, error_of, people_store
from tests.test_contract import as_client, literals
from tests.uploading import FakeLearner, serving, upload

PARAMS = [image_edit_params.ImageEditParamsNonStreaming, image_edit_params.ImageEditParamsStreaming]
FIELDS: dict[str, Any] = {name: kind for params in PARAMS for name, kind in get_type_hints(params).items()}
VALUES: dict[str, Any] = {"model": "gpt-image-2", "user": "someone", "safety_identifier": "someone"}
FILES = ("mask", "markup")


@pytest.fixture
def store(tmp_path: Path, tiny_pack: Pack) -> Store:
    return people_store(tmp_path, tiny_pack)


@pytest.fixture
def learner(store: Store, tiny_pack: Pack) -> FakeLearner:
    learner = FakeLearner(store, tiny_pack)
    learner.go.set()
    return learner


@pytest.fixture
def fake() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def http(store: Store, tiny_pack: Pack, learner: FakeLearner, fake: FakeGenerator) -> Iterator[TestClient]:
    with serving(store, tiny_pack, learner, fake) as http:
        yield http


def edit(http: TestClient, data: bytes = b"a photo", files: dict[str, Any] | None = None, **fields: Any) -> Any:
    sent = {"image": ("zoe.png", data), **(files or {})}
    return http.post("/v1/images/edits", files=sent, data={"prompt": "<person> in the snow"} | fields)


def test_every_field_of_the_client_has_one_fate() -> None:
    table = IMAGES_EDIT
    told = [*table.honoured, *table.without_effect, *table.refused]
    assert sorted(told) == sorted(FIELDS), "the client's fields and serve/openai/contract.py differ"
    assert set(told) - {"image"} <= EditsRequest.model_fields.keys()


def test_the_client_uploads_and_gets_its_picture_and_the_photo_is_known_from_then_on(
    http: TestClient, store: Store, learner: FakeLearner, fake: FakeGenerator
) -> None:
    client = as_client(http)
    for extra in ({"seed": 7}, {"seed": 8}):
        made = client.images.edit(
            image=("zoe.png", b"a photo"), prompt="<person> in the snow", model="gpt-image-2", n=2,
            size="1024x1024", output_format="webp", extra_body=extra,
        )  # fmt: skip
        ImagesResponse.model_validate(made.model_dump(), strict=True)
        assert made.data is not None and len(made.data) == 2 and made.size == "1024x1024"
        assert Image.open(io.BytesIO(base64.b64decode(made.data[0].b64_json or ""))).format == "WEBP"
    (row,) = store.read("identities", where="name = 'zoe'").to_pylist()
    assert len(learner.learned) == len(learner.prepared) == 1
    assert [job.seed for job in fake.jobs] == [7, 8, 8, 9]
    assert {job.identity.identity_id for job in fake.jobs} == {row["identity_id"]}


def test_the_client_reads_a_stream_with_the_learning_in_it(http: TestClient, learner: FakeLearner) -> None:
    client = as_client(http)
    events = list(client.images.edit(image=b"a photo", prompt="<person>", stream=True, partial_images=1))
    *learning, partial, completed = events
    assert isinstance(partial, ImageEditPartialImageEvent) and partial.partial_image_index == 0
    assert isinstance(completed, ImageEditCompletedEvent) and completed.usage.input_tokens == 1
    assert [event.type for event in learning] == ["image_edit.learning"] * len(learning) and learning
    again = list(client.images.edit(image=b"a photo", prompt="<person>", stream=True))
    assert [event.type for event in again] == ["image_edit.completed"]  # known: nothing to learn


@pytest.mark.parametrize("name", IMAGES_EDIT.without_effect)
def test_fields_without_effect_are_taken_and_named_where_they_ask_for_what_is_not_done(
    http: TestClient, name: str
) -> None:
    plain = edit(http, seed=1).json()["data"][0]["b64_json"]
    for value in [value for value in literals(FIELDS[name]) if value is not None] or [VALUES[name]]:
        response = edit(http, seed=1, **{name: value})
        assert response.status_code == 200 and response.json()["data"][0]["b64_json"] == plain, response.text
        asks_nothing = value in ("auto", "standard", "someone") or (name, value) == ("input_fidelity", "low")
        assert response.headers.get("x-ignored-fields") == (None if asks_nothing else name), value
        assert edit(http, strict="true", **{name: value}).status_code == (200 if asks_nothing else 422), value


@pytest.mark.parametrize("name", IMAGES_EDIT.refused)
def test_refused_fields_are_named(http: TestClient, learner: FakeLearner, fake: FakeGenerator, name: str) -> None:
    if name in FILES:
        response = edit(http, files={name: ("m.png", b"x")})
    else:
        response = edit(http, **{f"{name}[model]": "author"})  # as the client writes it
    assert response.status_code == 422 and error_of(response)["param"] == name
    assert IMAGES_EDIT.refused[name] in error_of(response)["message"] and not fake.jobs and not learner.prepared


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"n": "11"}, "n"),
        ({"n": "two"}, "n"),
        ({"size": "large"}, "size"),
        ({"identity": "ada"}, "identity"),
        ({"pose": "front"}, "pose"),
        ({"data": b""}, "image"),
        ({"face": "7"}, "face"),
        ({"files": {"image[]": ("other.png", b"y")}}, "image"),  # a pack that cannot tell whether they show one person
        ({"files": {"image[]": ("other.png", b"y")}, "same_person": "true", "face": "0"}, "face"),
    ],
)
def test_a_bad_field_is_422_and_named(
    http: TestClient, fake: FakeGenerator, fields: dict[str, Any], param: str
) -> None:
    response = edit(http, **fields)
    assert response.status_code == 422 and error_of(response)["param"] == param and not fake.jobs


def test_several_photos_are_of_one_person(
    store: Store, tiny_pack: Pack, learner: FakeLearner, fake: FakeGenerator, http: TestClient
) -> None:
    other = {"image[]": ("other.png", b"ada:2")}
    assert edit(http, b"ada:1", files=other, same_person="true").status_code == 200
    (row,) = store.read("identities", where="name = 'zoe'").to_pylist()
    assert len(row["more_faces"]) == 1 and fake.jobs[-1].identity.identity_id == row["identity_id"]
    likeness = tiny_pack.fr_vit.model_copy(update={"other_person": 0.5})
    with serving(store, tiny_pack.model_copy(update={"fr_vit": likeness}), learner, fake) as http:
        made = as_client(http).images.edit(image=[b"ada:1", b"ada:2"], prompt="<person>")
        assert made.data and len(fake.jobs) == 2 and len(learner.learned) == 1, "known"
        assert edit(http, b"ada:1", files={"image[]": ("b.png", b"bob:1")}).json()["error"]["photos"] == [0, 1]
    assert len(learner.learned) == 1


def test_a_photo_that_cannot_be_used_and_words_that_diverge_have_their_own_codes(
    http: TestClient, learner: FakeLearner, fake: FakeGenerator
) -> None:
    assert error_of(edit(http, b"no face"))["code"] == "no_face"
    assert len(edit(http, b"2 faces").json()["error"]["faces"]) == 2
    assert edit(http, b"2 faces", face="1").status_code == 200
    learner.error = Diverged()
    assert error_of(edit(http, b"another"))["code"] == "diverged" and len(fake.jobs) == 1
    streamed = edit(http, b"a third", stream="true")
    assert streamed.status_code == 200 and json.loads(streamed.text.split("data: ")[-1])["error"]["code"] == "diverged"


def test_a_learning_that_takes_too_long_goes_on(
    store: Store, tiny_pack: Pack, learner: FakeLearner, fake: FakeGenerator
) -> None:
    learner.go.clear()
    with serving(store, tiny_pack, learner, fake, timeout_s=0.1) as http:
        late = edit(http)
        assert late.status_code == 504 and error_of(late)["code"] == "still_learning"
        assert late.headers["x-should-retry"] == "true"
        learner.go.set()
        deadline = time.monotonic() + 20
        while not learner.learned:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with serving(store, tiny_pack, learner, fake) as http:
        assert edit(http).status_code == 200 and len(learner.learned) == 1


def test_who_was_erased_is_not_drawn(http: TestClient, store: Store) -> None:
    assert edit(http).status_code == 200
    assert http.delete("/v1/identities/zoe").status_code == 200
    assert error_of(edit(http))["code"] == "erased" and error_of(upload(http))["code"] == "erased"


PHOTO = "data:image/jpeg;base64," + base64.b64encode(b"a photo").decode()


@pytest.mark.parametrize(
    "photo",
    [
        {"images": [{"image_url": PHOTO}]},
        {"images": [{"image_url": {"url": PHOTO}}], "mask": None},
        {"image": [PHOTO], "size": ""},
        {"image": PHOTO.partition(",")[2], "mask": {}},
    ],
)
def test_photos_may_come_in_json(
    http: TestClient, fake: FakeGenerator, learner: FakeLearner, photo: dict[str, Any]
) -> None:
    body = {"model": "gpt-image-1", "prompt": "<person> in the snow", "n": 2, "seed": 7, **photo}
    answer = http.post("/v1/images/edits", json=body)
    assert answer.status_code == 200 and len(answer.json()["data"]) == 2, answer.text
    assert [job.seed for job in fake.jobs] == [7, 8] and len(learner.learned) == 1
    assert edit(http).status_code == 200 and len(learner.learned) == 1, "the same photo as in a form"


@pytest.mark.parametrize(
    ("photo", "param", "says"),
    [
        ({"images": [{"image_url": "http://127.0.0.1:9/x.jpg"}]}, "image_url", "no address is fetched"),
        ({"image": "https://example.com/x.jpg"}, "image_url", "no address is fetched"),
        ({"images": [{"image_url": "file:///etc/passwd"}]}, "image_url", "no address is fetched"),
        ({"images": [{"image_url": "data:image/jpeg;base64,???"}]}, "image_url", "no photo in base64"),
        ({"images": [{"file_id": "file-1"}]}, "file_id", "send the photo itself"),
        ({"images": [{}]}, "image", "data: URI"),
        ({"images": [PHOTO] * 17}, "image", "at most 16"),
        ({"images": []}, "image", "at least one photo"),
        ({"images": [PHOTO], "mask": {"image_url": PHOTO}}, "mask", "not painted into it"),
        ({"images": [PHOTO], "n": 99}, "n", "10"),
        ({"images": [PHOTO], "prompt": ""}, "prompt", "prompt"),
    ],
)
def test_photos_in_json_that_cannot_be_taken_are_told(
    http: TestClient, learner: FakeLearner, monkeypatch: pytest.MonkeyPatch, photo: Any, param: str, says: str
) -> None:
    monkeypatch.setattr(socket.socket, "connect", None)  # whoever connects fails otherwise
    answer = http.post("/v1/images/edits", json={"prompt": "<person>", **photo})
    assert answer.status_code == 422 and error_of(answer)["param"] == param, answer.text
    assert says in error_of(answer)["message"] and not learner.prepared


@pytest.mark.parametrize("name", ["mask", "image[]", "markup"])
def test_a_browsers_field_in_which_no_file_was_chosen_is_none(
    http: TestClient, learner: FakeLearner, name: str
) -> None:
    part = b'--b\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    kind = b"\r\ncontent-type: application/octet-stream"
    body = part % (name.encode(), b'; filename=""' + kind, b"") + part % (b"prompt", b"", b"<person>")
    headers = {"content-type": "multipart/form-data; boundary=b"}
    alone = http.post("/v1/images/edits", content=body + b"--b--\r\n", headers=headers)
    assert alone.status_code == 422 and "at least one photo" in error_of(alone)["message"]
    body += part % (b"image", b'; filename="zoe.png"' + kind, b"a photo") + b"--b--\r\n"
    answer = http.post("/v1/images/edits", content=body, headers=headers)
    assert answer.status_code == 200 and len(learner.learned) == 1, answer.text


def test_the_client_hears_of_a_mask_as_a_bad_request(http: TestClient) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="not painted into it"):
        as_client(http).images.edit(image=b"a photo", mask=b"a mask", prompt="<person>")
