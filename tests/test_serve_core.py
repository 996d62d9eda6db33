"""Behind the routes: the catalogue, and how a replica makes batches."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from ray.serve.schema import ServeDeploySchema

import factory.draw.images
from factory.config import GenerateConfig
from factory.pack import Pack
from factory.records import ImageRequest, TokenCount
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.catalog import Catalog, UnknownIdentity
from serve.drawing import Generator, ImageResult, _Ticket
from serve.settings import AppArgs, Settings
from tests import serving
from tests.serving import person, words_of

store = serving.store  # a fixture


def test_the_catalog_follows_the_table(store: Store, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    catalog = Catalog(store.root, ttl_s=1.0, clock=lambda: now)
    first = catalog.find("ada")
    reads: list[str] = []
    read = Store.find_identity
    monkeypatch.setattr(Store, "find_identity", lambda self, name: reads.append(name) or read(self, name))
    assert catalog.find("ada") is first and not reads  # cached
    with pytest.raises(UnknownIdentity):
        catalog.find("dora")
    newer = person(4, "ada", tiny_pack.fingerprint(), "2026-02-01T00:00:00+00:00")
    store.upsert("identities", [identity_row(newer), identity_row(person(5, "dora", tiny_pack.fingerprint()))])
    assert catalog.find("dora").identity_id == f"{5:016x}"  # what was not there is always looked up again
    now = 1.5
    assert catalog.find("ada").identity_id == f"{4:016x}"  # and what was replaced, after ttl_s


def test_a_slow_storage_holds_up_nobody_whose_identity_is_cached(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(store.root)
    catalog.find("ada")
    reading, answer = threading.Event(), threading.Event()
    newest = catalog._read_version

    def slow() -> int:
        if not reading.is_set():
            reading.set()
            assert answer.wait(10)
            return -1  # older than what others were told meanwhile: it must not count
        return newest()

    monkeypatch.setattr(catalog, "_read_version", slow)
    with ThreadPoolExecutor(1) as pool:
        held_up = pool.submit(catalog.find, "bob")
        assert reading.wait(10)
        start = time.perf_counter()
        first = catalog.find("ada")
        assert time.perf_counter() - start < 2 and not held_up.done()
        answer.set()
        assert held_up.result().name == "bob"
    assert catalog.find("ada") is first and catalog._version == newest()


class FakeImages:
    """`factory.draw.images.ImageGenerator` without a model: notes its batches, refuses the prompt "bad"."""

    batches: ClassVar[list[list[str]]] = []

    def __init__(self, _pack: Pack, *, device: str, max_batch: int) -> None:
        FakeImages.batches.clear()

    def count_tokens(self, text: str) -> TokenCount:
        return words_of(text)

    def generate(self, requests: Sequence[ImageRequest]) -> list[np.ndarray]:
        if any(request.prompt == "bad" for request in requests):
            raise ValueError("bad prompt")
        FakeImages.batches.append([request.prompt for request in requests])
        return [np.full((8, 8, 3), request.seed, np.uint8) for request in requests]


def test_a_bad_prompt_does_not_spoil_its_batch(tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory.draw.images, "ImageGenerator", FakeImages)
    generator = Generator(str(tiny_pack.root), device="cpu", num_threads=1, max_batch=8, batch_wait_s=0.0)
    who, few, many = person(1, "ada", ""), GenerateConfig(num_inference_steps=2), GenerateConfig()
    wanted = [("a", few), ("b", many), ("bad", many), ("c", few), ("d", many)]
    jobs = [ImageRequest(identity=who, prompt=text, seed=i, config=config) for i, (text, config) in enumerate(wanted)]
    tickets = [_Ticket(job) for job in jobs]
    generator._make(tickets)
    results = [ticket.result for ticket in tickets]
    assert FakeImages.batches == [["a", "c"], ["b"], ["d"]]  # equal settings share; the spoilt batch goes one by one
    assert isinstance(results[2], ValueError)
    good = [(i, result) for i, result in enumerate(results) if isinstance(result, ImageResult)]
    assert [(i, result.batch_size) for i, result in good] == [(0, 2), (1, 1), (3, 2), (4, 1)]
    assert all((result.image == i).all() for i, result in good)


def test_what_was_cancelled_while_it_waited_for_its_batch_is_not_drawn(
    tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory.draw.images, "ImageGenerator", FakeImages)
    generator = Generator(str(tiny_pack.root), device="cpu", num_threads=1, max_batch=8, batch_wait_s=0.0)
    who, few, many = person(1, "ada", ""), GenerateConfig(num_inference_steps=2), GenerateConfig()
    wanted = [("a", few), ("b", many), ("c", many), ("d", GenerateConfig(guidance_scale=1.0))]
    tickets = [_Ticket(ImageRequest(identity=who, prompt=text, seed=0, config=config)) for text, config in wanted]
    tickets[2].cancelled = tickets[3].cancelled = True
    generator._make(tickets)
    assert FakeImages.batches == [["a"], ["b"]] and generator._stats.images == 2
    assert [ticket.result is None for ticket in tickets] == [False, False, True, True]


def test_the_thread_that_computes_has_its_share_of_cores(tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory.draw.images, "ImageGenerator", FakeImages)
    called: list[tuple[int, int]] = []
    monkeypatch.setattr(torch, "set_num_threads", lambda number: called.append((number, threading.get_ident())))
    generator = Generator(str(tiny_pack.root), device="cpu", num_threads=3, max_batch=8, batch_wait_s=0.0)
    worker = generator._worker.submit(threading.get_ident).result()
    assert called == [(3, worker)] and worker != threading.get_ident()


def test_serve_yaml_is_what_ray_and_the_builder_accept() -> None:
    text = (Path(__file__).parent.parent / "serve" / "serve.yaml").read_text()
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (app,) = deployed.applications
    args = AppArgs.model_validate(app.args)
    assert app.import_path == "serve.app:builder"
    assert {deployment.name for deployment in app.deployments} == {"Ingress", "Generator"}
    assert deployed.http_options.request_timeout_s > args.timeout_s
    with pytest.raises(ValueError, match="max_batch"):
        Settings(max_batch=16, max_ongoing=8)
