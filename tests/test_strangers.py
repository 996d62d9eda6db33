"""Photos that are told to be one person's, of which some surely show somebody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.ids import faces_key, identity_ids
from factory.pack import Pack
from factory.settings import train_settings
from factory.store import strangers
from factory.store.rows import identity_row
from factory.store.tables import Store
from factory.store.told import ToldPerson
from pipelines.jobs.job import Summary
from pipelines.photos.unlearned import find_new_people
from tests import test_persons
from tests.serving import person
from tests.test_persons import new_people, rows_of

store, pack = test_persons.store, test_persons.pack  # fixtures


@pytest.fixture
def strict(pack: Pack) -> Pack:
    """A pack that says from where on a photo is somebody else's."""
    return pack.model_copy(update={"fr_vit": pack.fr_vit.model_copy(update={"other_person": 0.5})})


def test_a_photo_of_somebody_else_is_left_out_and_told(store: Store, strict: Pack, pack: Pack) -> None:
    rows = [rows_of(f"p{angle}", pack, angle, person="ada", uri="/x.jpg")[0] for angle in (0, 10, 20, 95)]
    pair = [rows_of(f"q{angle}", pack, angle, person="bob")[0] for angle in (0, 90)]
    store.upsert("faces", rows + pair + rows_of("alone", pack, 0, person="cleo"))
    summary = Summary(job="train", job_id="x")
    ada, whole = faces_key(["p0-0", "p10-0", "p20-0"]), faces_key(["p0-0", "p10-0", "p20-0", "p95-0"])
    assert new_people(store, strict, summary) == ["alone-0", ada], "whose photos differ is nobody"
    rejects = {reject.reject_id: reject for reject in store.rejects()}
    assert set(rejects) == {"p95", "q0", "q90"} and {one.reason for one in rejects.values()} == {"other_person"}
    odd = rejects["p95"]
    assert (odd.name, odd.stage, odd.uri) == ("p95", "train", "/x.jpg") and "mean cosine" in odd.detail
    assert "0.09" in odd.detail and "0.50" in odd.detail
    assert odd.detail.endswith("; `--persons-as-told` learns it all the same")
    assert "cannot be told: add another photo, or" in rejects["q0"].detail
    assert summary.rejected_faces == {"other_person": 3} and len(summary.samples) == 3
    again = Summary(job="train", job_id="x")
    assert len(new_people(store, strict, again)) == 2 and again.rejected_faces == {} and len(store.rejects()) == 3

    assert new_people(store, pack) == ["alone-0", whole, "q0-0+q90-0"], "a pack that cannot tell"
    assert store.rejects() == []
    new_people(store, strict)
    told = find_new_people(store, strict, train_settings(pack), summary, False, True, True)
    assert sorted(told) == ["alone-0", whole, "q0-0+q90-0"] and store.rejects() == [], "as told"
    only = find_new_people(store, strict, train_settings(pack), summary, False, False, only={ada, "q0-0+q90-0"})
    assert sorted(only) == [ada, "q0-0+q90-0"], "who was learned, with others or without, is learned so again"
    store.upsert("faces", rows_of("q5", pack, 5, person="bob"))
    assert faces_key(["q0-0", "q5-0"]) in new_people(store, strict), "it is told now who is meant"
    assert {reject.reject_id for reject in store.rejects()} == {"p95", "q90"}


def test_whoever_was_learned_as_told_is_known(store: Store, strict: Pack, pack: Pack) -> None:
    store.upsert("faces", [rows_of(f"p{angle}", pack, angle, person="ada")[0] for angle in (0, 90)])
    recipe = train_settings(pack)
    (an_id,) = identity_ids(["p0-0+p90-0"], recipe, pack.learning_fingerprint())
    made = replace(person(1, "ada", pack.fingerprint()), identity_id=an_id, face_id="p0-0", more_faces=["p90-0"])
    store.upsert("identities", [identity_row(made)])
    summary = Summary(job="train", job_id="x")
    assert new_people(store, strict, summary, recipe) == [] and store.rejects() == []
    assert summary.identities_existing == 1


def test_strangers_are_looked_for_in_parts(
    store: Store, strict: Pack, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "_AT_ONCE", 3)
    rows = [rows_of(f"{who}{angle}", pack, angle, person=who)[0] for who in "abcd" for angle in (0, 5, 90)]
    store.upsert("faces", rows)
    assert new_people(store, strict) == [faces_key([f"{who}0-0", f"{who}5-0"]) for who in "abcd"]
    assert [reject.name for reject in store.rejects()] == ["a90", "b90", "c90", "d90"]


def test_whoever_is_erased_before_their_photos_are_compared_is_passed_on(store: Store, strict: Pack) -> None:
    gone = ToldPerson(name="ada", num_faces=2, photo_ids={"p", "q"}, face_ids=["p-0", "q-0"])
    assert list(strangers.without_strangers(store, strict, [gone])) == [gone]
    store.upsert("faces", rows_of("p", strict, 0, person="ada"))
    assert list(strangers.without_strangers(store, strict, [gone])) == [gone], "one of two is left"
