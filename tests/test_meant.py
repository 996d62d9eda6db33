"""What clients mean by what they send: tags as front ends write them, models of other servers, empty texts, JSON that a
shell or a second encoder changed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from factory.pack import Pack
from factory.prompts import people_in
from serve.openai.schemas import ImagesRequest
from tests.serving import FakeGenerator, ask, error_of, people_store
from tests.test_access import a_gate

IMAGES = "/v1/images/generations"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Iterator[TestClient]:
    store = people_store(tmp_path_factory.mktemp("root"), tiny_pack)
    gate = a_gate(store.root, tiny_pack, FakeGenerator(), keyless="loopback")
    with TestClient(gate, "http://localhost:8000", raise_server_exceptions=False) as http:
        yield http


@pytest.mark.parametrize(
    "written",
    [
        *(r"\<person:ada\>", "＜person：ada＞", "<person：ada>", "< Person : ada >", "&lt;person:ada&gt;"),
        *(r"\<person\>", "＜person＞", "&lt;person&gt;"),
    ],
)
def test_tags_are_read_as_front_ends_and_input_methods_write_them(http: TestClient, written: str) -> None:
    assert people_in(ImagesRequest(prompt=f"{written} at sea").prompt) == (["ada"] if "ada" in written else [None])
    who = "ada" if "ada" in written else "bob"
    answer = ask(http, model="bob", prompt=written)
    assert answer.status_code == 200 and answer.json()["model"] == who


@pytest.mark.parametrize("name", ["back\\", "a/b", "x & y", "ada"])
def test_names_in_tags_stay_as_they_are(name: str) -> None:
    assert ImagesRequest(prompt=f"<person:{name}> at sea").prompt == f"<person:{name}> at sea"


@pytest.mark.parametrize(
    "path", ["chat/completions", "completions", "responses", "embeddings", "images/variations", "audio/speech"]
)
def test_who_means_to_chat_hears_what_is_made_here(http: TestClient, path: str) -> None:
    answer = http.post(f"/v1/{path}", json={"model": "ada", "messages": []})
    assert answer.status_code == 404 and "POST /v1/images/generations" in error_of(answer)["message"]


@pytest.mark.parametrize("model", ["gpt-image-1", "dall-e-3", "openai/dall-e-2", "GPT-Image-2-2026-04-21"])
def test_a_client_that_chooses_the_model_draws_whom_the_prompt_names(http: TestClient, model: str) -> None:
    drawn = ask(http, model=model, prompt="<person:ada> at sea")
    assert drawn.status_code == 200 and drawn.json()["model"] == "ada"
    assert drawn.headers["x-ignored-fields"] == "model"
    assert ask(http, model=model, prompt="<person:ada>", strict=True).status_code == 422
    nobody = ask(http, model=model, prompt="<person> at sea")
    assert nobody.status_code == 404 and "write <person:NAME> in the prompt" in error_of(nobody)["message"]
    typo = ask(http, model="adda", prompt="<person:ada> at sea")
    assert typo.status_code == 404 and "<person:NAME>" not in error_of(typo)["message"]


def test_texts_of_nothing_are_not_given(http: TestClient) -> None:
    names = "size response_format output_format background quality style user moderation identity"
    drawn = ask(http, **dict.fromkeys(names.split(), ""))
    assert drawn.status_code == 200 and "x-ignored-fields" not in drawn.headers
    assert drawn.json()["output_format"] == "png"
    assert ask(http, prompt="").status_code == 422


@pytest.mark.parametrize(
    "body", [b"{model:ada,prompt:x}", b"'{model:ada}'", b'\'{"model":"ada"}\'', rb"{\"model\":\"ada\"}"]
)
def test_a_body_whose_quotation_marks_a_shell_took_is_told(http: TestClient, body: bytes) -> None:
    answer = http.post(IMAGES, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and "quotation marks were taken by a shell" in error_of(answer)["message"]
    other = http.post(IMAGES, content=b'{"model": ada}', headers={"content-type": "application/json"})
    assert "shell" not in error_of(other)["message"]


def test_a_body_that_was_encoded_twice_is_told(http: TestClient) -> None:
    answer = http.post(IMAGES, json=json.dumps({"model": "ada", "prompt": "x"}))
    assert answer.status_code == 422 and "encoded twice" in error_of(answer)["message"]
