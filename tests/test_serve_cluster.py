"""The endpoint on a local Ray cluster, asked by the openai client: batches, errors, new identities, back-pressure."""

import asyncio
import base64
import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import openai
import pytest
import ray
from PIL import Image
from ray import serve as ray_serve

from factory.config import GenerateConfig
from factory.pack import Pack
from factory.records import ImageRequest
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.app import APP_NAME, builder, start, stop
from serve.client import GenerationTimeout, ImageClient
from serve.settings import Settings
from serve.stopping import StopSignals, finish
from studio.demo.port import free_port
from tests.serving import person

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
# small, so that few requests fill a batch and the queue
SETTINGS = Settings(max_batch=4, max_ongoing=8, max_queued=8, num_threads=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Store:
    store = Store(tmp_path_factory.mktemp("root"))
    mine = tiny_pack.fingerprint()
    people = [person(1, "ada", mine), person(2, "bob", mine), person(3, "cleo", "f" * 16)]
    store.upsert("identities", [identity_row(identity) for identity in people])
    return store


@pytest.fixture(scope="module")
def url(store: Store, tiny_pack: Pack) -> Iterator[str]:
    mine = not ray.is_initialized()
    if mine:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield start(store.root, str(tiny_pack.root), port=free_port(20100), settings=SETTINGS)
    stop()
    if mine:
        ray.shutdown()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def picture(client: openai.OpenAI, name: str, **extra: Any) -> tuple[np.ndarray, Any]:
    """The picture's pixels [S, S, 3] and the answer's first item."""
    answer = client.images.generate(model=name, prompt="<person> in the snow", extra_body={"seed": 5} | extra)
    assert answer.data is not None
    (item,) = answer.data
    assert item.b64_json is not None
    return np.array(Image.open(io.BytesIO(base64.b64decode(item.b64_json)))).astype(int), item


def together(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def stats(url: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/v1/stats").json())


def exported(name: str) -> float:
    """A counter of the replicas, as Prometheus reads it from this machine's Ray."""
    node = ray.nodes()[0]
    own = ray.get_runtime_context().get_worker_id()  # replicas that other tests made in this process count too
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    lines = httpx.get(address, trust_env=False, timeout=10).text.splitlines()
    counts = [line for line in lines if line.startswith(f"ray_identity_factory_{name}_total")]
    return sum(float(line.split()[-1]) for line in counts if own not in line)


def test_two_people_share_steps_and_look_as_if_alone(client: openai.OpenAI, url: str) -> None:
    alone = {name: picture(client, name) for name in ("ada", "bob")}
    assert [item.rows_per_step for _, item in alone.values()] == [1, 1]
    before = stats(url)
    with ThreadPoolExecutor(1) as pool:
        # somebody else's long picture is under way: nobody waits for it to end
        first = pool.submit(picture, client, "ada", num_inference_steps=200)
        while stats(url)["in_the_making"] == 0:
            time.sleep(0.01)
        shared = together(lambda: picture(client, "ada"), lambda: picture(client, "bob"))
        assert not first.done(), "it was to outlast both"
        first.result()
    after = stats(url)
    assert after["images"] - before["images"] == 3 and after["most_rows"] >= 2
    assert after["steps"] - before["steps"] < 200 + 2 * 4, "steps were shared"
    for (pixels, item), (expected, _) in zip(shared, alone.values(), strict=True):
        assert item.rows_per_step > 1
        assert np.abs(pixels - expected).max() <= 4  # of 255: rounding of the working precision, as in test_images
    assert np.abs(shared[0][0] - shared[1][0]).max() > 8  # two people


def test_what_nobody_waits_for_is_not_drawn(client: openai.OpenAI, url: str, tiny_pack: Pack) -> None:
    """A caller goes away, and a request's time is up: their rows are free at the next step."""
    drawer = ray_serve.get_deployment_handle("Drawer", APP_NAME)
    streaming: Any = drawer.options(stream=True).draw_with_previews.remote
    filming: Any = drawer.options(stream=True).animate.remote
    images = ImageClient(drawer.draw.remote, streaming, filming, timeout_s=0.4)
    who = person(2, "bob", tiny_pack.fingerprint())
    config = GenerateConfig(num_inference_steps=200)
    requests = [ImageRequest(identity=who, prompt="snow", seed=i, config=config) for i in range(2)]
    endless = {"model": "bob", "prompt": "snow", "num_inference_steps": 200}

    def goes_away(**fields: Any) -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/images/generations", json=endless | fields, timeout=0.3)

    def runs_out_of_time() -> None:
        with pytest.raises(GenerationTimeout):
            asyncio.run(images.images(requests))

    before = stats(url)
    together(lambda: goes_away(n=2), lambda: goes_away(stream=True), runs_out_of_time)
    deadline = time.monotonic() + 10
    while stats(url)["in_the_making"] + stats(url)["waiting"] and time.monotonic() < deadline:
        time.sleep(0.05)
    after = stats(url)
    assert (after["in_the_making"], after["waiting"]) == (0, 0)
    assert after["images"] == before["images"]


def test_errors_reach_the_client_as_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        picture(client, "adda")
    assert missing.value.code == "model_not_found" and "'adda'" in missing.value.message and missing.value.request_id
    with pytest.raises(openai.ConflictError) as misfit:
        client.with_options(max_retries=2).images.generate(model="cleo", prompt="x")
    assert misfit.value.code == "incompatible_identity"
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        client.images.generate(model="ada", prompt="x", size="huge")  # type: ignore[arg-type]
    assert wrong.value.param == "size" and "512x512" in wrong.value.message
    with pytest.raises(openai.UnprocessableEntityError) as long:  # refused by the replica, not by the ingress
        client.images.generate(model="ada", prompt="snow " * 100 + "<person>")
    assert long.value.param == "prompt" and "Traceback" not in long.value.message


def test_a_cut_prompt_and_another_size_are_told(client: openai.OpenAI) -> None:
    raw = client.images.with_raw_response.generate(model="ada", prompt="<person> on snow " * 40, size="512x512")
    answer = raw.parse().model_dump()
    assert raw.headers["x-prompt-truncated"] == "75 of 160 tokens read"
    assert answer["prompt_tokens"] == {"given": 160, "read": 75}
    assert (answer["size"], answer["drawn_size"]) == ("512x512", "64x64")


def test_the_request_id_is_echoed_once(url: str) -> None:
    answer = httpx.get(f"{url}/healthz", headers={"x-request-id": "my-id"})
    assert answer.headers.get_list("x-request-id") == ["my-id"]
    assert httpx.get(f"{url}/healthz").headers["x-request-id"]


def test_streaming(client: openai.OpenAI) -> None:
    events = list(client.images.generate(model="ada", prompt="snow", n=2, stream=True))
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    longer = {"num_inference_steps": 9}
    shown = list(client.images.generate(model="ada", prompt="snow", stream=True, partial_images=2, extra_body=longer))
    assert [event.type.rpartition(".")[2] for event in shown] == ["partial_image", "partial_image", "completed"]
    looks = [np.array(Image.open(io.BytesIO(base64.b64decode(event.b64_json)))).astype(int) for event in shown]
    assert all(look.shape == looks[-1].shape for look in looks)
    assert np.abs(looks[0] - looks[1]).max() > 0, "each shows how far it is"


def test_a_new_identity_appears(client: openai.OpenAI, store: Store, tiny_pack: Pack) -> None:
    with pytest.raises(openai.NotFoundError):
        picture(client, "dora")
    store.upsert("identities", [identity_row(person(9, "dora", tiny_pack.fingerprint()))])
    assert picture(client, "dora")[1].rows_per_step == 1
    assert "dora" in {model.id for model in client.models.list()}


def test_a_full_queue_is_refused_and_retried(client: openai.OpenAI, url: str) -> None:
    body = {"model": "ada", "prompt": "snow", "n": 4, "num_inference_steps": 20}
    answers = together(*[lambda: httpx.post(f"{url}/v1/images/generations", json=body, timeout=60)] * 10)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and {answer.status_code for answer in answers} == {200, 429}
    assert refused[0].json()["error"]["code"] == "queue_full"
    assert int(refused[0].headers["retry-after-ms"]) > 0 and int(refused[0].headers["retry-after"]) > 0
    patient = client.with_options(max_retries=20)
    results = together(*[lambda: patient.images.generate(model="bob", prompt="snow", n=4)] * 8)
    assert all(len(result.data) == 4 for result in results)


def test_ray_exports_what_is_drawn_for_prometheus(url: str) -> None:
    deadline = time.monotonic() + 40  # a replica tells every few seconds, and Ray exports as often
    while exported("unet_steps") != stats(url)["steps"] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert exported("unet_steps") == stats(url)["steps"] > 0
    assert exported("images") == stats(url)["images"]


def test_no_other_root_takes_its_place(url: str, store: Store, tiny_pack: Pack, tmp_path: Path) -> None:
    """Serve has one application of a name: another root's would answer here, and without this one's keys."""
    other, port = Store(tmp_path), urlsplit(url).port or 0
    told = r"this Ray serves .* already.*serve shutdown.*RAY_ADDRESS=local"
    for root, where in ((other.root, port), (other.root, free_port(20100)), (store.root, free_port(20100))):
        with pytest.raises(OSError, match=told):
            start(root, str(tiny_pack.root), port=where, settings=SETTINGS)
    assert "bob" in {model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]}


def test_stopping_finishes_what_is_under_way(url: str) -> None:
    """The last one that draws: the door stays closed."""
    images = f"{url}/v1/images/generations"
    body = {"model": "ada", "prompt": "snow", "n": 4, "num_inference_steps": 200}
    with ThreadPoolExecutor(2) as pool:
        under_way = pool.submit(lambda: httpx.post(images, json=body, timeout=60))
        time.sleep(0.4)
        stopped = pool.submit(finish, ray_serve.get_app_handle(APP_NAME), 60.0, StopSignals())
        time.sleep(0.4)
        refused = httpx.post(images, json=body)
        assert refused.status_code == 503 and not under_way.done() and not stopped.done()
        assert under_way.result().status_code == 200 and stopped.result() == 0


@pytest.mark.usefixtures("url")
def test_the_builder_of_serve_yaml(store: Store) -> None:
    assert builder({"root": store.root, "pack": "sd21", "num_gpus": 1, "max_batch": 8}) is not None
    with pytest.raises(ValueError, match="max_bach"):
        builder({"root": store.root, "max_bach": 8})


def test_other_applications_stay_when_it_ends(url: str) -> None:
    """The last one: nothing of ours is served after it."""
    theirs = ray_serve.deployment(lambda: "theirs").options(ray_actor_options={"num_cpus": 0.1}).bind()
    ray_serve.run(theirs, name="theirs", route_prefix="/theirs")
    stop()
    assert httpx.get(f"{url}/theirs").status_code == 200
    assert list(ray_serve.status().applications) == ["theirs"]
    ray_serve.shutdown()
