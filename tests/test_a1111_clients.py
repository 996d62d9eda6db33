"""What clients of AUTOMATIC1111's API send that its own documentation does not show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from factory.pack import Pack
from factory.store import called
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.a1111 import schemas
from serve.a1111.infotext import parse
from serve.a1111.prompts import with_people
from tests import test_a1111 as own
from tests.serving import FakeGenerator, error_of, person

store, app, http, fake = own.store, own.app, own.http, own.fake  # fixtures
KEYPOINTS = json.dumps({"people": [{"pose_keypoints_2d": [230, 134, 1]}], "canvas_width": 512})


def test_off_may_be_a_text(http: TestClient, fake: FakeGenerator) -> None:
    off = {"enable_hr": "false", "restore_faces": "False", "tiling": "0", "subseed_strength": "0"}
    unit = {"enabled": "false", "image": "AA=="}
    body = {"prompt": "ada", **off, "alwayson_scripts": {"controlnet": {"args": [unit]}}}
    answer = http.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 200 and fake.jobs[0].pose is None, answer.text
    for on in ("true", "True", "1", True):
        answer = http.post("/sdapi/v1/txt2img", json={"prompt": "ada", "enable_hr": on})
        assert answer.status_code == 200 and answer.headers["x-ignored-fields"] == "enable_hr"


def test_what_a1111_can_and_this_server_cannot_is_left_undone_and_told(http: TestClient) -> None:
    asked = dict.fromkeys(schemas.UNDONE, 1) | {"styles": ["film"], "refiner_checkpoint": "x"}
    asked |= {"hr_scale": 2, "hr_upscaler": "Latent", "clip_skip": 2, "width": 64, "height": 64}
    answer = http.post("/sdapi/v1/txt2img", json={"prompt": "ada", **asked})
    assert answer.status_code == 200 and len(answer.json()["images"]) == 1, answer.text
    info = json.loads(answer.json()["info"])
    told = info["extra_generation_params"]["Not done"]
    assert all(f"{name}: {why}" in told for name, why in schemas.UNDONE.items()) and "clip_skip" in told
    assert parse(info["infotexts"][0])["Not done"] == told
    assert {*answer.headers["x-ignored-fields"].split(", ")} == {*schemas.UNDONE, "clip_skip"}
    plain = json.loads(http.post("/sdapi/v1/txt2img", json={"prompt": "ada"}).json()["info"])
    assert plain["extra_generation_params"] == {}


@pytest.mark.parametrize(
    ("asked", "schedule"),
    [
        ({"sampler_index": "DPM++ 2M Karras"}, "Karras"),
        ({"sampler_name": "DPM++ 2M SGM Uniform "}, "SGM Uniform"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, "Karras"),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "automatic"}, "Karras"),
    ],
)
def test_another_schedule_than_is_used_is_told(http: TestClient, asked: dict[str, str], schedule: str) -> None:
    info = json.loads(http.post("/sdapi/v1/txt2img", json={"prompt": "ada", **asked}).json()["info"])
    told = info["extra_generation_params"]
    assert info["sampler_name"] == "DPM++ 2M"
    assert (told["Schedule asked for"], told["Schedule used"]) == (schedule, "the pack's own")


def test_fields_that_are_not_given_are_read_from_an_infotext(http: TestClient, fake: FakeGenerator) -> None:
    text = "ada in the snow\nNegative prompt: blurry\nSteps: 3, Sampler: Euler, CFG scale: 2.5, Seed: 9, Size: 128x64"
    answer = http.post("/sdapi/v1/txt2img", json={"infotext": text, "seed": 5})
    assert answer.status_code == 200, answer.text
    [job] = fake.jobs
    config = job.config
    assert (job.seed, config.num_inference_steps, config.guidance_scale, config.sampler) == (5, 3, 2.5, "euler")
    assert "in the snow" in job.prompt and config.negative_prompt == "blurry"
    info = json.loads(answer.json()["info"])
    assert (info["width"], info["height"]) == (128, 64)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (KEYPOINTS, "keypoints are not read: send the skeleton"),
        ({"image": "https://example.com/x.jpg"}, "no address is fetched: send the picture itself"),
        ("C:\\poses\\x.png", "no file is read here"),
        ("/home/me/x.png", "no file is read here"),
        ("???", "no base64: send a picture in it"),
    ],
)
def test_what_is_no_picture_is_told(http: TestClient, fake: FakeGenerator, image: Any, says: str) -> None:
    unit = {"image": image, "module": "none"}
    answer = http.post(
        "/sdapi/v1/txt2img", json={"prompt": "ada", "alwayson_scripts": {"controlnet": {"args": [unit]}}}
    )
    assert answer.status_code == 422 and says in error_of(answer)["message"] and not fake.jobs


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("ADA, in the snow", "ada"), ("photo of Ada.", "ada"), ("grace hopper", "Grace Hopper"), ("adam", None)],
)
def test_capitals_of_names_are_as_they_come(
    http: TestClient, fake: FakeGenerator, prompt: str, name: str | None
) -> None:
    answer = http.post("/sdapi/v1/txt2img", json={"prompt": prompt})
    if name is None:
        assert answer.status_code == 422 and "names nobody" in error_of(answer)["message"]
    else:
        assert answer.status_code == 200 and fake.jobs[0].identity.name == name


def test_the_name_as_it_is_written_comes_first(tmp_path: Any, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, store = tiny_pack.fingerprint(), Store(tmp_path)
    people = [person(1, "Ada", mine), person(2, "ada", mine, "2026-02-01T00:00:00+00:00"), person(3, "BOB", "f" * 16)]
    store.upsert("identities", [identity_row(one) for one in people])
    assert called.called(store, ["Ada", "ADA"], mine) == {"Ada": "Ada"}
    assert called.called_in_any_case(store, ["ADA", "bob"], mine) == {"ADA": "ada"}, "the newest, of this text encoder"
    monkeypatch.setattr(called, "_READ_THROUGH", 2)
    assert called.called_in_any_case(store, ["ADA"], mine) == {}


def test_seeds_of_several_pictures_follow_one_another_and_fit_in_32_bits(http: TestClient, fake: FakeGenerator) -> None:
    answer = http.post("/sdapi/v1/txt2img", json={"prompt": "ada", "seed": -1, "batch_size": 3, "n_iter": 2}).json()
    info = json.loads(answer["info"])
    first = info["seed"]
    assert info["all_seeds"] == list(range(first, first + 6)) == [job.seed for job in fake.jobs] and first + 6 <= 2**32
    assert len(info["infotexts"]) == len(info["all_prompts"]) == len(answer["images"]) == 6


def test_a_whole_request_as_extensions_show_it_is_drawn(http: TestClient) -> None:
    own = {"Seed": [-1, False, -1, 0, 0, 0], "Sampler": [20, "Euler", "Automatic"], "API payload": [], "Comments": []}
    scripts = {name: {"args": args} for name, args in {**own, "Refiner": [False, "", 0.8]}.items()}
    body = {
        "prompt": "ada",
        "alwayson_scripts": scripts,
        "override_settings": [],
        "eta": 1.0,
        "s_noise": 1,
        "s_tmax": 0,
        "s_churn": 0.5,
    }
    answer = http.post("/sdapi/v1/txt2img", json=body)
    told = "s_churn, alwayson_scripts.Seed, alwayson_scripts.Sampler"
    assert answer.status_code == 200 and answer.headers["x-ignored-fields"] == told


@pytest.mark.parametrize("args", [[True, {"ad_model": "face_yolov8n.pt"}], [{"ad_model": "face_yolov8n.pt"}], {"x": 1}])
def test_scripts_that_are_not_there_are_told_and_the_picture_is_drawn(http: TestClient, args: Any) -> None:
    scripts = {"ADetailer": {"args": args}, "roop": {"args": [False]}, "Dynamic Prompts v2": {"args": []}}
    answer = http.post("/sdapi/v1/txt2img", json={"prompt": "ada", "alwayson_scripts": scripts})
    assert answer.status_code == 200 and len(answer.json()["images"]) == 1
    assert answer.headers["x-ignored-fields"] == "alwayson_scripts.ADetailer"


def test_the_request_of_a1111s_own_documentation_is_drawn(http: TestClient) -> None:
    texts = "sampler_name scheduler refiner_checkpoint firstpass_image hr_upscaler hr_sampler_name script_name infotext"
    shown = {**dict.fromkeys(texts.split(), "string"), "styles": ["string"], "comments": {}, "script_args": []}
    answer = http.post("/sdapi/v1/txt2img", json={"prompt": "ada", **shown, "sampler_index": "DDIM"})
    assert answer.status_code == 200 and json.loads(answer.json()["info"])["sampler_name"] == "DDIM"


def test_a_prompt_that_is_cut_or_too_long_is_told(http: TestClient) -> None:
    answer = http.post("/sdapi/v1/txt2img", json={"prompt": "ada" + " in the snow" * 20, "negative_prompt": "no " * 40})
    assert answer.headers["x-prompt-truncated"] == "30 of 61 tokens read"
    told = json.loads(answer.json()["info"])["extra_generation_params"]
    assert told["Prompt truncated"] == "30 of 61 tokens read" and "Negative prompt truncated" in told
    named = http.post("/sdapi/v1/txt2img", json={"prompt": "ada " * 7900})
    assert named.status_code == 422 and "32000 characters" in named.json()["detail"]


def test_networks_that_are_not_there_are_told_and_the_picture_is_drawn(http: TestClient, fake: FakeGenerator) -> None:
    asked = "<lora:add_detail:1>, ada at sea <lyco:film:0.5:0.2><lora:add_detail:0.3>"
    answer = http.post("/sdapi/v1/txt2img", json={"prompt": asked})
    assert answer.status_code == 200 and answer.headers["x-ignored-fields"] == "prompt.lora, prompt.lyco"
    told = json.loads(answer.json()["info"])["extra_generation_params"]
    assert told == {"Networks not found": "add_detail, film"}
    assert fake.jobs[-1].prompt == ", <person> at sea"


@pytest.mark.parametrize(
    ("prompt", "drawn"),
    [
        ("photo of Ada (2),smiling", "photo of <person:Ada (2)>,smiling"),
        ("(photo:1.3) of [ada] (2)", "photo of <person:ada> 2"),
        ("<person:Ada (2)> (laughing:1.2)", "<person:Ada (2)> laughing"),
        ("Zoe, Ann and Ada [x]", "<person:Zoe, Ann> and <person:Ada [x]>"),
        ("(Dr. No:1.2)", "<person:Dr. No>"),
    ],
)
def test_names_may_have_signs_that_are_marks_elsewhere(prompt: str, drawn: str) -> None:
    known = {name: name for name in ("ada", "Ada (2)", "Ada [x]", "Zoe, Ann", "Dr. No")}
    assert with_people(prompt, lambda texts: {text: known[text] for text in texts if text in known}) == drawn


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sdapi/v1/txt2img", 422),
        ("/sdapi/v1/img2img", 501),
        ("/sdapi/v1/nothing", 404),
        ("/controlnet/detect", 404),
    ],
)
def test_errors_have_what_both_kinds_of_clients_look_for(http: TestClient, path: str, status: int) -> None:
    answer = http.post(path, json={"prompt": "a street"})
    assert answer.status_code == status and answer.json()["detail"] == error_of(answer)["message"] != ""


def test_a_side_that_is_none_is_named(http: TestClient, fake: FakeGenerator) -> None:
    for width in (0, -64, 8, 10**9, 512.5, True):
        answer = http.post("/sdapi/v1/txt2img", json={"prompt": "ada", "width": width})
        assert answer.status_code == 422 and error_of(answer)["param"] == "width" and not fake.jobs
    for taken in ({"width": None}, {"width": 64.0}, {"cfg_scale": "7.5"}, {"steps": 2.0}):
        assert http.post("/sdapi/v1/txt2img", json={"prompt": "ada", **taken}).status_code == 200, taken


@pytest.mark.parametrize("prompt", ["ada in a {red|blue} hat", "ada, __weather__", "ada AND bob", "ada, (hat:1.2)"])
def test_signs_that_are_not_followed_are_told(http: TestClient, prompt: str) -> None:
    for fields in ({"prompt": prompt}, {"prompt": "ada", "negative_prompt": prompt}):
        info = json.loads(http.post("/sdapi/v1/txt2img", json=fields).json()["info"])
        assert "not followed" in info["extra_generation_params"].values() and "not followed" in info["infotexts"][0]
    info = json.loads(http.post("/sdapi/v1/txt2img", json={"prompt": "ada and bob"}).json()["info"])
    assert "not followed" not in info["infotexts"][0]
