"""What people agreed to: read beside photos, carried along, asked before drawing, erased when it is over."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from cli.__main__ import app
from factory.consent import Consent, as_time, iso
from factory.draw.engine import Engine
from factory.errors import ConsentExpired, PhotoRejected
from factory.pack import Pack
from factory.records import ImageRequest
from factory.settings import generate_settings, train_settings
from factory.store.consents import expired_people, set_consent, set_photo_consents, still_agreed
from factory.store.erase import erase, find_person
from factory.store.policy import read_policy
from factory.store.queries import identities_by_id, people_to_draw
from factory.store.rows import encode_png, face_row, identity_row
from factory.store.tables import Store
from pipelines.jobs.job import Summary
from pipelines.photos.unlearned import find_new_people
from serve.learning import Learner
from serve.loop import ImageResult
from tests import serving
from tests.batching import begin, ended, lines, server, task
from tests.make_faces import noise_face
from tests.serving import FakeGenerator, ask, error_of, person
from tests.test_contract import as_client

fake, http = serving.fake, serving.http  # fixtures
PAST, FUTURE = time.time() - 60, time.time() + 86_400


@pytest.fixture
def store(tmp_path: Path, tiny_pack: Pack) -> Store:
    return serving.people_store(tmp_path / "root", tiny_pack)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC)),  # that day is part of it
        (date(2027, 1, 31), datetime(2027, 2, 1, tzinfo=UTC)),
        ("2027-01-31T12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
        ("2027-01-31T12:00", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        (datetime(2027, 1, 31, 12), datetime(2027, 1, 31, 12, tzinfo=UTC)),
        (1_801_353_600, datetime.fromtimestamp(1_801_353_600, UTC)),
    ],
)
def test_until_when(text: Any, moment: datetime) -> None:
    assert as_time(text) == moment.timestamp()


def test_what_cannot_be_understood_is_told() -> None:
    assert iso(as_time("9999-12-31")) == "9999-12-31T23:59:59+00:00", "as people write what has no end"
    assert as_time(as_time("9999-12-31")) == as_time("9999-12-31"), "as a table has it that is read again"
    assert iso(as_time("0001-01-01T00:00:00+14:00")).startswith("0001-01-01")
    assert as_time("") is None and as_time(None) is None and Consent.of({}) == Consent()
    for wrong in (
        {"consent_expires": "2027-01-31"},
        {"consent": "f", "consent_expires": "soon"},
        {"consent_scope": "x"},
        {"consent": "f", "consent_expires": 1_935_446_400_000},  # milliseconds: else it would hold for ever
        {"consent": "f", "consent_expires": float("inf")},
    ):
        with pytest.raises(ValueError, match="consent"):
            Consent.of(wrong)


def expire(store: Store, name: str, at: float) -> None:
    rows = store.read("identities", where=f"name = '{name}'").to_pylist()
    store.upsert("identities", [row | {"consent": "form", "consent_expires": at} for row in rows])


def test_an_expired_consent_stops_drawing_at_once(
    http: TestClient, fake: FakeGenerator, store: Store, tiny_pack: Pack
) -> None:
    expire(store, "ada", FUTURE)
    assert ask(http).status_code == 200
    expire(store, "ada", PAST)
    answer = ask(http)
    assert answer.status_code == 409 and error_of(answer)["code"] == "consent_expired"
    assert ask(http, model="bob", prompt="<person> and <person:ada>").status_code == 409
    assert ask(http, model="bob").status_code == 200 and len(fake.jobs) == 2
    # jobs
    ids = [f"{1:016x}", f"{2:016x}"]
    assert list(identities_by_id(store, ids)) == ids[1:]
    assert [who.name for who in people_to_draw(store, tiny_pack, None)] == ["bob"]
    with pytest.raises(ConsentExpired, match=r"'ada' \(0{15}1\) agreed to is over"):
        people_to_draw(store, tiny_pack, ["ada"])


class _Expires(FakeGenerator):
    """Draws three pictures, and then a consent is over."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    async def work(self, job: ImageRequest) -> ImageResult:
        made = await super().work(job)
        if len(self.jobs) == 3:
            expire(self.store, "ada", PAST)
        return made


def test_a_consent_that_expires_while_a_batch_runs(store: Store, tiny_pack: Pack) -> None:
    fake = _Expires(store)
    with server(store, tiny_pack, fake) as http:
        client = as_client(http)
        tasks = [task(f"{name}{number}", model=name) for number in range(6) for name in ("ada", "bob")]
        batch = ended(client, begin(client, tasks).id)
        done = {line["custom_id"] for line in lines(client, batch.output_file_id)}
        failed = {line["custom_id"]: line for line in lines(client, batch.error_file_id)}
        given = lines(client, batch.output_file_id)
        withheld = [line["custom_id"] for line in given if line["response"]["status_code"] != 200]
        assert withheld == [name for name in sorted(done) if name.startswith("ada")], "drawn in time, fetched too late"
        for line in given:
            body = line["response"]["body"]
            assert ("b64_json" not in json.dumps(body) and body["error"]["code"] == "consent_expired") == (
                line["custom_id"] in withheld
            )
    assert {f"bob{number}" for number in range(6)} <= done and done.isdisjoint(failed) and len(done | set(failed)) == 12
    assert set(failed) >= {f"ada{number}" for number in range(3, 6)} and all(name.startswith("ada") for name in failed)
    assert {line["response"]["body"]["error"]["code"] for line in failed.values()} == {"consent_expired"}
    assert sum(job.identity.name == "ada" for job in fake.jobs) < 6, "the rest was not even drawn"


def test_of_a_batch_no_name_stays_when_a_consent_is_over_and_its_person_erased(
    store: Store, tiny_pack: Pack, fake: FakeGenerator
) -> None:
    expire(store, "ada", PAST)
    with server(store, tiny_pack, fake) as http:
        client = as_client(http)
        batch = ended(client, begin(client, [task("first"), task("second", model="bob")]).id)
        (line,) = lines(client, batch.error_file_id)
        assert "'ada'" in line["response"]["body"]["error"]["message"]
        erase(store, find_person(store, name="ada"))
        assert client.batches.retrieve(batch.id).error_file_id is None
    left = [file.read_bytes() for file in Path(store.root).rglob("*") if file.is_file()]
    assert not any(b"'ada'" in data for data in left)


def test_what_was_drawn_is_not_given_out_once_its_consent_is_over(http: TestClient, store: Store) -> None:
    urls = ask(http, response_format="url").json()["data"]
    image = {"image_id": "ab" * 8, "identity_id": f"{2:016x}", "name": "bob", "prompt": "p", "seed": 1, "config": "{}"}
    image |= {"people": [f"{2:016x}", f"{1:016x}"], "created_at": "2026-01-01", "pose": ""}
    store.upsert("images", [image | {"image": encode_png(np.zeros((8, 8, 3), np.uint8))}])
    address = urls[0]["url"].removeprefix("http://testserver")
    paths = [address, f"/v1/images/{'ab' * 8}/content", f"/v1/images/{'ab' * 8}/thumbnail"]
    paths += ["/v1/identities/ada?words=true"]
    assert {http.get(path).status_code for path in paths} == {200}
    expire(store, "ada", PAST)
    for path in (*paths, "/v1/identities/ada/thumbnail", "/v1/identities/ada/masks"):
        answer = http.get(path)
        assert answer.status_code == 409 and error_of(answer)["code"] == "consent_expired", path
    assert http.get("/v1/identities/ada").status_code == 200, "that somebody is there is told until they are erased"


def test_what_is_over_is_not_exported(store: Store, tmp_path: Path) -> None:
    expire(store, "ada", PAST)
    ada, bob = f"{1:016x}", f"{2:016x}"
    rows = [{"identity_id": ada, "people": None}, {"identity_id": bob, "people": [bob]}, {"identity_id": bob}]
    rows.append({"identity_id": bob, "people": [bob, ada]})
    assert still_agreed(store, rows, named=False) == rows[1:3] == still_agreed(store, rows[1:3], named=True)
    with pytest.raises(ConsentExpired):
        still_agreed(store, rows, named=True)
    export = ["identities", "export", "--root", store.root, "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, [*export, "ada"])
    assert refused.exit_code == 1 and not list(tmp_path.glob("out/*"))
    assert CliRunner().invoke(app, export).exit_code == 0
    assert sorted(file.stem for file in (tmp_path / "out").iterdir()) == ["bob", "cleo"]


def test_of_several_photos_the_first_consent_that_is_over_counts(store: Store, tiny_pack: Pack) -> None:
    first, other, told = (Consent(reference=name, expires=at) for name, at in (("a", 5.0), ("b", 9.0), ("c", None)))
    assert Consent.of_all([first, other, told]) == Consent(reference="a; b; c", expires=5.0)
    assert Consent.of_all([other, Consent()]) == Consent(expires=9.0), "also where nobody told one of another photo"
    assert Consent.of_all([Consent(), Consent()]) == Consent()
    # told anew of one photo
    rows = store.read("identities", where="name = 'ada'").to_pylist()
    store.upsert("identities", [rows[0] | {"photo_id": "one", "face_id": "one-0", "more_faces": ["two-0"]}])
    faces = [face_row(noise_face(number, tiny_pack)) for number in range(2)]
    faces = [row | {"photo_id": name, "face_id": f"{name}-0"} for row, name in zip(faces, ("one", "two"), strict=True)]
    store.upsert("faces", faces)
    for photo, consent, ends in (("one", first, 5.0), ("two", other, 5.0), ("one", told, 9.0)):
        assert set_photo_consents(store, {photo: consent}) == 2
        assert store.find_identity("ada").consent_expires == ends
    assert store.find_identity("ada").consent == "c; b" and expired_people(store, 10.0) == {f"{1:016x}"}
    assert set_consent(store, "ada", first) == 3 and store.find_identity("ada").consent == "a"


def test_a_face_whose_consent_is_over_is_not_learned(store: Store, tiny_pack: Pack) -> None:
    """It was asked for in time, and put off."""
    over = Consent(reference="form", expires=PAST)
    faces = [face_row(noise_face(number, tiny_pack)) for number in range(3)]
    store.upsert("faces", [faces[0] | over.columns(), faces[1], faces[2] | Consent(reference="form").columns()])
    recipe, learner = train_settings(tiny_pack), Learner.__new__(Learner)
    learner._pack = tiny_pack

    async def learn(face_id: str) -> None:
        async for _ in learner.learn(store.root, [face_id], recipe):
            pass

    with pytest.raises(PhotoRejected, match="expired"):
        asyncio.run(learn("face-0"))
    with pytest.raises(AttributeError):  # it has no loop here, which it asks for next
        asyncio.run(learn("face-1"))
    (Path(store.root) / "settings.toml").write_text("require_consent = true\n")
    with pytest.raises(PhotoRejected, match="nobody's"):
        asyncio.run(learn("face-1"))
    summary = Summary(job="train", job_id="")
    assert find_new_people(store, tiny_pack, recipe, summary, False, False) == ["face-2"], "nor by a job"


def test_whoever_waits_when_it_expires_is_not_drawn(tiny_pack: Pack) -> None:
    from factory.base.diffusion import DiffusionBase

    engine = Engine(DiffusionBase.load(tiny_pack, device="cpu"), max_samples=4)
    who = replace(person(1, "ada", tiny_pack.fingerprint()), consent="form", consent_expires=PAST)
    with pytest.raises(ConsentExpired):
        engine.add([ImageRequest(identity=who, prompt="<person>", seed=0, config=generate_settings(tiny_pack))])
    assert not engine.rows


def test_what_is_over_is_erased(store: Store) -> None:
    run, root = CliRunner(), ["--root", store.root]
    image = {"image_id": "ab" * 8, "identity_id": f"{1:016x}", "name": "ada", "prompt": "p", "seed": 1, "config": "{}"}
    picture = encode_png(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    store.upsert("images", [image | {"image": picture, "created_at": "2026-01-01", "pose": ""}])
    given = run.invoke(app, ["identities", "consent", "ada", "--reference", "form-9", "--expires", "2020-01-31", *root])
    assert given.exit_code == 0, given.output
    assert store.find_identity("ada").consent == "form-9"
    again = run.invoke(app, ["identities", "consent", "bob", "--reference", "form-9", "--expires", "2099-01-31", *root])
    assert again.exit_code == 0
    done = run.invoke(app, ["identities", "expire", "--yes", *root])
    assert done.exit_code == 0 and "1 photos erased" in done.output and "0 traces" in done.output
    assert store.existing_ids("identities") == {f"{2:016x}", f"{3:016x}"} and store.count("images") == 0
    assert "0 photos erased" in run.invoke(app, ["identities", "expire", "--yes", *root]).output


def test_settings_of_a_root(tmp_path: Path) -> None:
    assert not read_policy(str(tmp_path)).require_consent
    (tmp_path / "settings.toml").write_text("\ufeffrequire_consent = true\r\n")  # as Windows' editors write it
    assert read_policy(str(tmp_path / "tenants" / "acme")).require_consent, "a tenant has its operator's"
    for wrong in ("require_consent = 3", "requires_consent = true", "no toml"):
        (tmp_path / "settings.toml").write_text(wrong)
        with pytest.raises(ValueError, match=r"settings\.toml cannot be used.*its fields are require_consent"):
            read_policy(str(tmp_path))


def test_roots_without_the_columns_are_read(store: Store, tiny_pack: Pack) -> None:
    assert store.find_identity("ada").consent is None and store.find_identity("ada").consent_expires is None
    assert identity_row(person(1, "ada", tiny_pack.fingerprint()))["consent_expires"] is None
