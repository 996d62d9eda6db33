"""What the tests of batches share: a server of its own on a root, and the openai client's way through it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from openai.types import Batch, FileObject
from starlette.testclient import TestClient

from factory.pack import Pack
from factory.store.tables import Store
from serve.app import create_app
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.ledger import Ledger, LedgerMiddleware
from serve.openai.batch_lines import KIND, BatchRunner
from serve.openai.batches import Batches, batch_routes
from serve.openai.errors import kept_of
from serve.openai.files import Files, file_routes
from serve.openai.images import Endpoint
from serve.stopping import Door
from serve.work import Kind, WorkBook
from tests.serving import FakeGenerator
from tests.test_contract import as_client


@contextmanager
def server(
    store: Store, pack: Pack, fake: FakeGenerator, room: asyncio.Semaphore | None = None
) -> Iterator[TestClient]:
    """A server of its own on this root; left, it puts down what it has not done."""
    with TestClient(app_of(store, pack, fake, room), raise_server_exceptions=False) as http:
        yield http


def app_of(store: Store, pack: Pack, fake: FakeGenerator, room: asyncio.Semaphore | None = None) -> FastAPI:
    """The endpoint on a root with files, batches and an audit that is written at once."""
    submits = fake.submit, fake.submit_with_previews, fake.submit_clip
    client = ImageClient(*submits, timeout_s=5.0, submit_patiently=fake.submit, patient_room=room)
    endpoint = Endpoint(pack, Catalog(store.root), client, fake.stats)
    ledger = Ledger(store, every_s=0.0)
    lines = BatchRunner(store, endpoint.generations, at_once=2, ledger=ledger)
    book = WorkBook(store, {KIND: Kind(do=lines.run, max_waiting=2)}, kept_of, beat_s=0.1)
    batches = Batches(store, book, pack.name)
    routers = batch_routes(batches), file_routes(Files(store, batches))
    app = create_app(endpoint, Door(), book, *routers)
    app.add_middleware(LedgerMiddleware, ledger=ledger)
    return app


@pytest.fixture
def http(store: Store, tiny_pack: Pack, fake: FakeGenerator) -> Iterator[TestClient]:
    with server(store, tiny_pack, fake) as http:
        yield http


@pytest.fixture
def client(http: TestClient) -> openai.OpenAI:
    return as_client(http)


def task(custom_id: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "ada", "prompt": "<person> in the snow"} | fields
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/images/generations", "body": body}


def upload(client: openai.OpenAI, tasks: list[dict[str, Any]]) -> FileObject:
    return client.files.create(file=("people.jsonl", as_jsonl(tasks)), purpose="batch")


def as_jsonl(tasks: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, tasks)).encode()


def begin(client: openai.OpenAI, tasks: list[dict[str, Any]], **fields: Any) -> Batch:
    given: dict[str, Any] = {"completion_window": "24h", "endpoint": "/v1/images/generations"} | fields
    return client.batches.create(input_file_id=upload(client, tasks).id, **given)


def ended(client: openai.OpenAI, batch_id: str, within_s: float = 20) -> Batch:
    deadline = time.monotonic() + within_s
    while (batch := client.batches.retrieve(batch_id)).status in ("validating", "in_progress", "finalizing"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.01)
    return batch


def lines(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file_id or "").read().splitlines()]
