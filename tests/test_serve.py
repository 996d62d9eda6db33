"""The endpoint without Ray: formats, sizes, lists of identities."""

import base64
import io
import json
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from factory.config import GenerateConfig
from factory.pack import Pack
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.openai.pictures import resized
from tests import serving
from tests.serving import FakeGenerator, ask, error_of, person

store, fake, http = serving.store, serving.fake, serving.http  # fixtures


def test_n_pictures_have_consecutive_seeds(http: TestClient, fake: FakeGenerator) -> None:
    answer = ask(http, n=3, seed=7, size="64x64", user="someone", quality="high", style=None).json()
    assert [picture["seed"] for picture in answer["data"]] == [7, 8, 9]
    for picture, job in zip(answer["data"], fake.jobs, strict=True):
        image = np.array(Image.open(io.BytesIO(base64.b64decode(picture["b64_json"]))))
        assert image.shape == (64, 64, 3) and (image == job.seed).all()
        assert picture["rows_per_step"] >= 1 and "url" not in picture
    assert answer["identity"] == "0000000000000001" and answer["model"] == "ada" and answer["size"] == "64x64"
    assert answer["num_inference_steps"] == 2  # the tiny pack's own default
    assert isinstance(answer["created"], int)


def test_without_a_seed_each_request_draws_one_and_tells_it(http: TestClient) -> None:
    first, second = (ask(http).json()["data"][0]["seed"] for _ in range(2))
    assert first != second


def test_extensions_reach_the_generator(http: TestClient, fake: FakeGenerator) -> None:
    ask(http, model="dall-e-3", identity="bob", num_inference_steps=9, guidance_scale=1.5, negative_prompt="hat")
    (job,) = fake.jobs
    assert job.identity.name == "bob" and job.prompt == "<person> in the snow"
    assert job.config == GenerateConfig(num_inference_steps=9, guidance_scale=1.5, negative_prompt="hat")


@pytest.mark.parametrize(("name", "pillow"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_output_formats_and_addresses(http: TestClient, name: str, pillow: str) -> None:
    (picture,) = ask(http, output_format=name, response_format="url").json()["data"]
    answer = http.get(picture["url"])
    assert answer.headers["content-type"] == f"image/{name}" and "b64_json" not in picture
    assert Image.open(io.BytesIO(answer.content)).format == pillow


def events_of(response: Any) -> list[tuple[str, dict[str, Any]]]:
    """Kind and data of each server-sent event."""
    parts = [dict(line.split(": ", 1) for line in part.split("\n")) for part in response.text.strip().split("\n\n")]
    return [(part["event"], json.loads(part["data"])) for part in parts]


def test_a_stream_shows_pictures_in_the_making(http: TestClient) -> None:
    events = events_of(ask(http, stream=True, partial_images=2, seed=7))
    assert [kind.removeprefix("image_generation.") for kind, _ in events] == [*["partial_image"] * 2, "completed"]
    previews = [data for _, data in events[:2]]
    assert [preview["partial_image_index"] for preview in previews] == [0, 1]
    for number, preview in enumerate(previews):
        shown = np.array(Image.open(io.BytesIO(base64.b64decode(preview["b64_json"]))))
        assert shown.shape == (64, 64, 3) and (shown == number).all()
        assert preview["type"] == "image_generation.partial_image" and preview["size"] == "64x64"
    assert events[2][1]["seed"] == 7 and events[2][1]["prompt_tokens"] == {"given": 4, "read": 4}


def test_what_fails_after_the_first_event_is_an_event(http: TestClient, fake: FakeGenerator) -> None:
    fake.error = RuntimeError("lost")
    events = events_of(ask(http, stream=True, partial_images=1, n=2))
    assert events[0][0] == "image_generation.partial_image"
    assert events[-1][0] == "error" and events[-1][1]["error"]["code"] == "internal_error"
    assert "lost" not in json.dumps(events)


def test_what_fails_before_the_first_event_has_its_status(http: TestClient, fake: FakeGenerator) -> None:
    fake.error = RuntimeError("lost")
    assert ask(http, stream=True, n=2).status_code == 500


def test_stream_sends_one_completed_event_a_picture(http: TestClient) -> None:
    response = ask(http, stream=True, n=2, seed=1)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [dict(line.split(": ", 1) for line in part.split("\n")) for part in response.text.strip().split("\n\n")]
    assert [event["event"] for event in events] == ["image_generation.completed"] * 2
    data = [json.loads(event["data"]) for event in events]
    assert [item["seed"] for item in data] == [1, 2] and all(item["b64_json"] for item in data)
    assert data[0]["type"] == "image_generation.completed" and data[0]["size"] == "64x64"


@pytest.mark.parametrize(
    ("size", "sent", "drawn"),
    [
        ("512x512", (512, 512), "64x64"),
        ("32x32", (32, 32), "64x64"),
        ("1024x1536", (1024, 1536), "64x96"),
        ("1792X1024", (1792, 1024), "112x64"),
        ("64x64", (64, 64), "64x64"),
    ],
)
def test_other_sizes_are_drawn_in_the_nearest_shape_and_resampled(
    http: TestClient, fake: FakeGenerator, size: str, sent: tuple[int, int], drawn: str
) -> None:
    answer = ask(http, size=size, seed=3).json()
    assert answer["size"] == f"{sent[0]}x{sent[1]}" and answer["drawn_size"] == drawn
    image = np.array(Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))))
    assert image.shape == (sent[1], sent[0], 3) and (image == 3).all()
    config = fake.jobs[0].config
    assert f"{config.width_px or 64}x{config.height_px or 64}" == drawn


def test_resampling_keeps_the_picture() -> None:
    y, x = np.mgrid[0:64, 0:64]
    image = np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), 2 * x + y], axis=-1).astype(np.uint8)
    back = resized(resized(image, (256, 256)), (64, 64)).astype(int)
    assert np.abs(back - image).max() <= 4 and np.abs(back - image).mean() < 1  # of 255
    assert resized(image, (64, 64)) is image and resized(image, None) is image
    assert resized(image, (64, 32)).shape == (32, 64, 3)


def test_unknown_fields_are_dropped_and_named(http: TestClient) -> None:
    response = ask(http, **{"steps": 3, "cfg_scale": 7, "metadata": {"a": 1}, "a, b\nü": 1, "nothing": None})
    assert response.status_code == 200
    assert response.headers["x-ignored-fields"] == "steps, cfg_scale, metadata, a%2C%20b%0A%C3%BC"
    assert "x-ignored-fields" not in ask(http, user="someone", quality="auto").headers
    assert "x-ignored-fields" in ask(http, stream=True, width=512).headers
    many = ask(http, **{f"field{number}": 1 for number in range(1000)}).headers["x-ignored-fields"]
    assert len(many) < 1010 and many.startswith("field0, ") and many.endswith(", ...")


def test_a_prompt_that_is_cut_is_told(http: TestClient) -> None:
    response = ask(http, prompt="<person> " + "on a bridge " * 20, negative_prompt="hat " * 31)
    assert response.headers["x-prompt-truncated"] == "30 of 61 tokens read"
    assert response.headers["x-negative-prompt-truncated"] == "30 of 31 tokens read"
    assert response.json()["prompt_tokens"] == {"given": 61, "read": 30}
    short = ask(http)
    assert not [name for name in short.headers if name.endswith("truncated")]
    assert short.json()["prompt_tokens"] == {"given": 4, "read": 4}


@pytest.mark.parametrize(
    "content_type", [None, "application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "application/vnd.x+json"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_read_whatever_its_content_type(http: TestClient, content_type: str | None, encoding: str) -> None:
    body = json.dumps({"model": "ada", "prompt": "Schnee für <person>"}, ensure_ascii=False).encode(encoding)
    headers = {} if content_type is None else {"content-type": content_type}
    assert http.post("/v1/images/generations", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/models/", "/v1/models/ada", "/v1/stats"])
def test_every_answer_can_be_asked_for_its_headers(http: TestClient, path: str) -> None:
    head, got = http.head(path), http.get(path)
    assert head.status_code == 200 and not head.content
    assert head.headers["content-length"] == got.headers["content-length"]


def test_a_slash_after_models_is_the_list(http: TestClient) -> None:
    assert http.get("/v1/models/").json() == http.get("/v1/models").json() and http.get("/v1/models/").json()["data"]


@pytest.mark.parametrize(
    "name", ["two\nlines", "ends\n", "\r\n", "#?%&=+", "Zoë Müller 🙂", " ", "a\x00b", "..", "a//b", "-x", "\u202e"]
)
def test_any_name_in_the_list_can_be_asked_for(http: TestClient, store: Store, tiny_pack: Pack, name: str) -> None:
    store.upsert("identities", [identity_row(person(4, name, tiny_pack.fingerprint(), "2026-03-01T00:00:00+00:00"))])
    card = http.get("/v1/models").json()["data"][0]
    assert card["name"] == name
    assert http.get(f"/v1/models/{quote(card['id'], safe='')}").json() == card
    assert http.get(f"/v1/identities/{quote(card['id'], safe='')}").json()["identity_id"] == card["identity_id"]
    assert ask(http, model=card["id"]).json()["identity"] == card["identity_id"]


def test_models_are_what_can_be_asked_for(http: TestClient, store: Store, tiny_pack: Pack) -> None:
    mine, newer = tiny_pack.fingerprint(), "2026-02-01T00:00:00+00:00"
    store.upsert("identities", [identity_row(person(4, "ada", mine, newer)), identity_row(person(5, "a/b", mine))])
    listed = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    # the older ada and the name with a slash go by their ids; cleo belongs to another base model
    assert listed.keys() == {"ada", "bob", f"{1:016x}", f"{5:016x}"}
    assert listed["ada"]["identity_id"] == f"{4:016x}" and listed["ada"]["object"] == "model"
    for model_id, card in listed.items():
        assert http.get(f"/v1/models/{model_id}").json() == card
    assert http.get("/v1/models/nobody").status_code == 404
    assert error_of(http.get("/v1/models?limit=0"))["param"] == "limit"


def test_models_come_in_pages_newest_first(http: TestClient, store: Store, tiny_pack: Pack) -> None:
    mine = tiny_pack.fingerprint()
    store.upsert("identities", [identity_row(person(n, "ada" if n == 9 else f"p{n}", mine)) for n in range(4, 11)])
    whole = http.get("/v1/models").json()
    ids = [card["id"] for card in whole["data"]]
    assert ids[:2] == ["bob", "p10"] and len(ids) == 9 and len(set(ids)) == 9 and not whole["has_more"]
    pages, after = [], ""
    while True:
        page = http.get(f"/v1/models?limit=4{after}").json()
        pages.append([card["id"] for card in page["data"]])
        assert (page["first_id"], page["last_id"]) == (pages[-1][0], pages[-1][-1])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert [len(page) for page in pages] == [4, 4, 1] and [i for page in pages for i in page] == ids
    response = http.get("/v1/models?after=nobody")
    assert response.status_code == 422 and error_of(response)["param"] == "after"
    store.delete("identities", "TRUE")
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert http.get("/v1/models").json() == empty


def test_an_identity_shows_its_words_only_when_asked(http: TestClient) -> None:
    card = http.get("/v1/identities/ada").json()
    assert card["identity_id"] == "0000000000000001" and card["compatible"] and "words" not in card
    assert np.array(http.get("/v1/identities/ada?words=true").json()["words"]["text_encoder"]).shape == (2, 32)
    assert not http.get("/v1/identities/cleo").json()["compatible"]


def test_health_and_stats(http: TestClient, tiny_pack: Pack) -> None:
    assert http.get("/healthz").json() == {"status": "ok", "pack": "tiny", "fingerprint": tiny_pack.fingerprint()}
    stats = {"images": 2, "steps": 4, "rows_per_step": 1.5, "most_rows": 2, "seconds_a_step": 0.25}
    assert http.get("/v1/stats").json() == {**stats, "waiting": 1, "in_the_making": 0}
