"""Whatever the server's own OpenAPI schema allows, and what it does not, is answered and never a 500."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from factory.pack import Pack
from studio.demo.port import free_port
from tests.test_hostile_routes import check, wired

MAX_EXAMPLES = 60  # of each operation and kind of data
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Iterator[str]:
    port = free_port(20100)
    with wired(tmp_path_factory.mktemp("root"), tiny_pack) as app:
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


def test_no_request_of_the_schema_is_a_500(url: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    schema, statuses = schemathesis.openapi.from_url(f"{url}/openapi.json"), Counter[str]()
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 40
    limits = hypothesis.settings(
        max_examples=MAX_EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    with httpx.Client(base_url=url, timeout=60) as http:
        for operation, mode in [(operation, mode) for operation in operations for mode in modes]:
            if operation.path == "/v1/identities" and operation.method.lower() == "post":
                continue  # needs the learner's replica
            try:
                cases = operation.as_strategy(generation_mode=mode)

                @hypothesis.given(case=cases)
                @limits
                def ask(case: Any) -> None:
                    try:
                        answer = case.call(timeout=60)
                    except (UnicodeEncodeError, ValueError):  # what no HTTP client can send
                        statuses["unsendable"] += 1
                        return
                    statuses[f"{answer.status_code // 100}xx"] += 1
                    check(answer, (case.method, case.path, case.as_curl_command()[:1000]))

                ask()
            except hypothesis.errors.Unsatisfiable:  # nothing of this kind can be said to it
                continue
        assert http.get("/healthz").status_code == 200
    print(dict(statuses))
    assert statuses["2xx"] > 100 and statuses["4xx"] > 100
