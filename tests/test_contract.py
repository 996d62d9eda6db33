"""OpenAI's contract for pictures, held against the types of its own client: what becomes of every field it can send."""

import asyncio
import base64
import io
import time
import typing
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import httpx
import numpy as np
import openai
import pytest
from openai.types import ImagesResponse, image_generate_params
from openai.types.image_gen_completed_event import ImageGenCompletedEvent
from openai.types.image_gen_partial_image_event import ImageGenPartialImageEvent
from PIL import Image, ImageSequence
from starlette.testclient import TestClient

from factory.pack import Pack
from factory.records import ClipRequest
from factory.store.erase import erase, find_person
from factory.store.files import drop_expired
from factory.store.tables import Store
from serve.openai.contract import IMAGES_GENERATE
from serve.openai.schemas import ImagesRequest
from serve.shelf import Shelf, UnknownFile
from tests import serving
from tests.serving import FakeGenerator, ask, client_of, error_of, people_store

store, fake, http = serving.store, serving.fake, serving.http  # fixtures
PARAMS = [image_generate_params.ImageGenerateParamsNonStreaming, image_generate_params.ImageGenerateParamsStreaming]
FIELDS: dict[str, Any] = {name: kind for params in PARAMS for name, kind in get_type_hints(params).items()}
ASKS_NOTHING = ("auto", "standard", "someone")  # else than what is done
VALUES = {"svg": {"model": "author"}, "user": "someone", "safety_identifier": "someone"}  # where no literal says one


def literals(kind: Any) -> list[Any]:
    """The values that a type of the client lists."""
    if get_origin(kind) is typing.Literal:
        return list(get_args(kind))
    return [value for part in get_args(kind) for value in literals(part)]


def as_client(http: TestClient) -> openai.OpenAI:
    """The openai client, whose requests reach the app without a socket."""

    def send(request: httpx.Request) -> httpx.Response:
        path, body = request.url.raw_path.decode(), request.read()
        answer = http.request(request.method, path, content=body, headers=request.headers)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    transport = httpx.MockTransport(send)
    return openai.OpenAI(
        base_url="http://testserver/v1", api_key="x", max_retries=0, http_client=httpx.Client(transport=transport)
    )


@pytest.fixture
def moving(tmp_path_factory: pytest.TempPathFactory, tiny_pack_moving: Pack, fake: FakeGenerator) -> TestClient:
    """The endpoint with a pack that draws clips."""
    return client_of(people_store(tmp_path_factory.mktemp("moving"), tiny_pack_moving), tiny_pack_moving, fake)


def test_every_field_of_the_client_has_one_fate() -> None:
    table = IMAGES_GENERATE
    told = [*table.honoured, *table.without_effect, *table.refused]
    assert sorted(told) == sorted(FIELDS), "the client's fields and serve/openai/contract.py differ"
    assert set(told) <= ImagesRequest.model_fields.keys()


@pytest.mark.parametrize("name", IMAGES_GENERATE.without_effect)
def test_fields_without_effect_are_taken_and_named_where_they_ask_for_what_is_not_done(
    http: TestClient, name: str
) -> None:
    plain = ask(http, seed=1).json()["data"][0]["b64_json"]
    for value in literals(FIELDS[name]) or [VALUES[name]]:
        response, strict = ask(http, seed=1, **{name: value}), ask(http, seed=1, strict=True, **{name: value})
        assert response.status_code == 200 and response.json()["data"][0]["b64_json"] == plain, response.text
        asks_nothing = value in ASKS_NOTHING and name != "moderation"  # "auto" asks for one
        assert response.headers.get("x-ignored-fields") == (None if asks_nothing else name), value
        assert strict.status_code == (200 if asks_nothing else 422) and (asks_nothing or name in strict.text), value


def test_what_a_prompt_asks_for_beside_its_words_is_left_out_and_told(http: TestClient, fake: FakeGenerator) -> None:
    asked = {"prompt": "<lora:film:0.8>a photo of <person> BREAK at sea", "negative_prompt": "<hypernet:old:1>fog"}
    for fields in ({}, {"stream": True}):
        answer = ask(http, **asked, **fields)
        assert answer.headers["x-ignored-fields"] == "prompt.lora, prompt.BREAK, negative_prompt.hypernet"
        assert fake.jobs[-1].prompt.split() == "a photo of <person> at sea".split()
    assert ask(http, **asked, strict=True).status_code == 422
    assert "x-ignored-fields" not in ask(http, prompt="<person> takes a break").headers


def test_an_address_in_a_stream_is_told_as_ignored(http: TestClient) -> None:
    assert ask(http, stream=True, response_format="url").headers["x-ignored-fields"] == "response_format"
    assert ask(http, stream=True, response_format="url", strict=True).status_code == 422


@pytest.mark.parametrize("name", IMAGES_GENERATE.refused)
def test_refused_fields_are_named(http: TestClient, fake: FakeGenerator, name: str) -> None:
    response = ask(http, **{name: VALUES[name]})
    assert response.status_code == 422 and error_of(response)["param"] == name
    assert IMAGES_GENERATE.refused[name] in error_of(response)["message"] and not fake.jobs
    assert ask(http, **{name: None}).status_code == 200  # the client's way to say nothing


@pytest.mark.parametrize("name", ["background", "output_format", "response_format", "size"])
def test_each_value_that_the_client_lists_is_honoured_or_refused_by_name(moving: TestClient, name: str) -> None:
    refused, values = {"transparent", "svg"}, literals(FIELDS[name])
    assert len(values) > 1
    for value in values:
        response = ask(moving, **{name: value})
        if value in refused:
            assert response.status_code == 422 and error_of(response)["param"] == name
        else:
            assert response.status_code == 200, (value, response.text)


def test_the_client_reads_the_answer_as_its_own_types(http: TestClient) -> None:
    made = as_client(http).images.generate(
        model="ada", prompt="<person>", n=2, size="1024x1536", quality="high", background="opaque", user="someone",
        output_format="webp", output_compression=50, moderation="low",
    )  # fmt: skip
    ImagesResponse.model_validate(made.model_dump(), strict=True)
    assert made.data is not None and len(made.data) == 2 and made.output_format == "webp" and made.size == "1024x1536"
    assert made.usage is not None and made.usage.input_tokens == made.usage.total_tokens == 1
    assert made.usage.input_tokens_details.text_tokens == 1 and made.background == "opaque"
    image = Image.open(io.BytesIO(base64.b64decode(made.data[0].b64_json or "")))
    assert image.format == "WEBP" and image.size == (1024, 1536)


def test_the_client_reads_a_stream_as_its_own_types(http: TestClient) -> None:
    events = as_client(http).images.generate(
        model="ada", prompt="<person>", stream=True, partial_images=1, response_format="url"
    )
    partial, completed = list(events)
    assert isinstance(partial, ImageGenPartialImageEvent) and partial.partial_image_index == 0
    assert isinstance(completed, ImageGenCompletedEvent) and completed.usage.input_tokens == 1
    for event in (partial, completed):
        type(event).model_validate(event.model_dump(), strict=True)
        assert Image.open(io.BytesIO(base64.b64decode(event.b64_json))).format == "PNG"


@pytest.mark.parametrize(
    ("name", "is_really"), [("PNG", "PNG"), ("Jpg", "JPEG"), ("jpg", "JPEG"), ("JPEG", "JPEG"), ("WebP", "WEBP")]
)
def test_formats_are_read_in_any_case(http: TestClient, name: str, is_really: str) -> None:
    answer = ask(http, output_format=name).json()
    assert Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))).format == is_really
    assert answer["output_format"] == is_really.lower()


@pytest.mark.parametrize(
    ("fields", "num_frames", "frame_ms"),
    [({}, 9, 200), ({"frame_count": 2, "frame_duration_ms": 123}, 2, 120), ({"frame_count": 16, "n": 2}, 16, 200)],
)
def test_a_gif_is_a_clip(
    moving: TestClient, fake: FakeGenerator, fields: dict[str, Any], num_frames: int, frame_ms: int
) -> None:
    response = ask(moving, output_format="GIF", size="96x96", seed=3, **fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["output_format"] == "gif" and answer["size"] == "96x96" and not fake.jobs
    assert [one["seed"] for one in answer["data"]] == [clip.job.seed for clip in fake.clips]
    for one, clip in zip(answer["data"], fake.clips, strict=True):
        assert isinstance(clip.job, ClipRequest) and clip.job.config.num_frames == num_frames
        # Pillow joins frames that are alike, as the fake's are: only their time together is told
        data = base64.b64decode(one["b64_json"])
        gif = Image.open(io.BytesIO(data))
        assert b"trainedAlgorithmicMedia" in data, "it says that a model made it"
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
        assert gif.format == "GIF" and gif.size == (96, 96) and abs(sum(times) - num_frames * frame_ms) <= 10 * 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"frame_count": 4}, "frame_count"),
        ({"output_format": "png", "frame_duration_ms": 100}, "frame_duration_ms"),
        ({"output_format": "gif", "frame_count": 1}, "frame_count"),
        ({"output_format": "gif", "frame_count": 17}, "frame_count"),
        ({"output_format": "gif", "stream": True}, "stream"),
        ({"output_format": "gif", "partial_images": 1}, "partial_images"),
        ({"output_format": "gif", "output_compression": 50}, "output_compression"),
        ({"output_format": "gif", "prompt": "<person> and <person:bob>"}, "prompt"),
        ({"output_format": "bmp"}, "output_format"),
        ({"output_format": 7}, "output_format"),
    ],
)
def test_what_does_not_go_together_is_named(
    moving: TestClient, fake: FakeGenerator, fields: dict[str, Any], param: str
) -> None:
    response = ask(moving, **fields)
    assert response.status_code == 422 and error_of(response)["param"] == param, response.text
    assert not fake.jobs and not fake.clips
    calm = {"output_format": "gif", "stream": False, "partial_images": 0, "output_compression": 100}
    assert ask(moving, **calm).status_code == 200  # as clients that send every default do


def test_a_pack_without_motion_says_so(http: TestClient) -> None:
    response = ask(http, output_format="gif")
    assert response.status_code == 422 and error_of(response)["param"] == "output_format"
    assert "draws no clips" in error_of(response)["message"]


def test_an_address_gives_the_picture_from_any_server_of_the_root(
    http: TestClient, store: Store, tiny_pack: Pack
) -> None:
    made = as_client(http).images.generate(
        model="ada", prompt="<person>", n=2, response_format="url", output_format="jpeg", extra_body={"seed": 9}
    )
    assert made.data is not None and all(one.b64_json is None for one in made.data)
    urls = [one.url or "" for one in made.data]
    assert len(set(urls)) == 2 and all(url.startswith("http://testserver/v1/pictures/file-") for url in urls)
    another = client_of(store, tiny_pack, FakeGenerator())  # as after a restart, or beside the first one
    for number, url in enumerate(urls):
        answer = another.get(url)
        assert answer.headers["content-type"] == "image/jpeg"
        assert 3590 <= int(answer.headers["cache-control"].removeprefix("private, max-age=")) <= 3600
        image = np.array(Image.open(io.BytesIO(answer.content)))
        assert np.abs(image.astype(int) - (9 + number)).max() <= 2
        assert another.head(url).status_code == 200
    missing = another.get("/v1/pictures/file-" + "0" * 32)
    assert missing.status_code == 404 and error_of(missing)["code"] == "no_such_file"


def test_addresses_expire_and_their_number_is_bounded(store: Store) -> None:
    shelf = Shelf(store, keep_s=0.5)
    [first] = asyncio.run(shelf.put([b"first"], "png", ["1"]))
    assert asyncio.run(shelf.find(first))["content"] == b"first"
    time.sleep(0.5)
    with pytest.raises(UnknownFile):
        asyncio.run(shelf.find(first))
    ids = asyncio.run(Shelf(store).put([b"a", b"b", b"c"], "png", ["1"]))
    assert store.count("files") == 4
    assert drop_expired(store, time.time(), most=2) == 2 and store.count("files") == 2  # the expired one, and a third
    assert store.existing_ids("files") < set(ids)
    assert drop_expired(store, time.time(), most=2) == 0
    sweeping = Shelf(store, most=1, sweep_s=-1.0)  # at each picture
    [last] = asyncio.run(sweeping.put([b"d"], "png", ["1"]))
    assert store.existing_ids("files") == {last}


def test_erasing_a_person_takes_the_pictures_at_addresses(http: TestClient, store: Store) -> None:
    asked: list[dict[str, str]] = [{}, {"prompt": "<person:bob> and <person>"}, {"model": "bob"}]
    urls = [ask(http, response_format="url", **fields).json()["data"][0]["url"] for fields in asked]
    content = http.get(urls[0]).content
    assert [http.get(url).status_code for url in urls] == [200, 200, 200]
    done = erase(store, find_person(store, name="ada"))
    assert done.rows["files"] == 2 and not done.found
    assert [http.get(url).status_code for url in urls] == [404, 404, 200]
    left = [file.read_bytes() for file in Path(store.uri("files")).rglob("*") if file.is_file()]
    assert left and not any(content in data for data in left)
