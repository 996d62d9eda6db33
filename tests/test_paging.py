"""Pages of a table, newest first: those of a sorted list, wherever the rows lie."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from factory.store import paging, upkeep
from factory.store.queries import image_page, work_page
from factory.store.schemas import SCHEMAS
from factory.store.sql import where_in
from factory.store.tables import Store
from tests.test_upkeep import row


@pytest.mark.parametrize("indexed", [False, True])
def test_pages_are_those_of_a_sorted_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool) -> None:
    """Rows that came late and are old, were written again, deleted, or are of one second, at every place of a page."""
    monkeypatch.setattr(upkeep, "INDEX_FROM", 64 if indexed else 10**6)
    store, draw, model = Store(tmp_path), random.Random(2), dict[str, dict[str, Any]]()
    for commit in range(30):
        numbers = draw.sample(range(200), 10)
        times = [f"{draw.randrange(commit + 1) if draw.random() < 0.2 else commit:03d}" for _ in numbers]
        rows = [
            {**row(number, "x", time), "fingerprint": "few" if number % 50 == 0 else "many"}
            for number, time in zip(numbers, times, strict=True)
        ]
        store.upsert("identities", rows)
        model.update({one["identity_id"]: one for one in rows})
    gone = draw.sample(sorted(model), 20)
    store.delete("identities", where_in("identity_id", gone))
    rows = [one for an_id, one in model.items() if an_id not in gone]
    if indexed:
        store.tidy("identities")
    for fingerprint in (None, "many", "few"):
        fit = [one for one in rows if fingerprint in (None, one["fingerprint"])]
        expected = [one["identity_id"] for one in sorted(fit, key=lambda one: (one["created_at"], one["identity_id"]))]
        expected.reverse()
        for limit in (1, 3, 7):
            found, after = list[str](), None
            while page := store.identity_page(limit, after, fingerprint):
                found += [one["identity_id"] for one in page]
                after = found[-1]
            assert found == expected
    with pytest.raises(LookupError, match=f"no identity {gone[0]!r} to go on from"):
        store.identity_page(3, gone[0])


def test_a_page_of_a_large_table_reads_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "INDEX_FROM", 64)
    store = Store(tmp_path)
    for first in range(0, 3000, 1000):
        rows = [row(number, f"n{number}", f"{number // 4:06d}") for number in range(first, first + 1000)]
        store.upsert("identities", rows)
    store.tidy("identities")
    dataset = store.open("identities")
    assert dataset is not None
    read = dataset.scanner(filter="created_at >= '000740' AND created_at <= '000745'").analyze_plan()
    assert "ScalarIndexQuery" in read
    assert [one["created_at"] for one in store.identity_page(4)] == ["000749"] * 4
    after = f"i{2000:015d}"
    assert [one["identity_id"] for one in store.identity_page(2, after)] == [f"i{1999:015d}", f"i{1998:015d}"]


def test_a_page_reads_few_rows_also_where_the_newest_do_not_lie_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind an erasure, which writes a file of old rows anew, and behind half a tidying."""
    monkeypatch.setattr(paging, "_MANY", 16)
    store = Store(tmp_path)
    for first in (1000, 2000, 0):
        rows = [row(number, f"n{number}", f"{number // 4:06d}") for number in range(first, first + 1000)]
        store.upsert("identities", rows)
    dataset = store.open("identities")
    assert dataset is not None
    assert dataset.take([2999], columns=["created_at"]).to_pylist() == [{"created_at": "000249"}]
    where = f"created_at >= '{paging._bound_of_page(dataset, 4, None, {}, newest_first=True)}'"
    assert 4 <= dataset.count_rows(filter=where) <= 8
    assert [one["created_at"] for one in store.identity_page(5)] == ["000749"] * 4 + ["000748"]


def blank(table: Any, **known: Any) -> dict[str, Any]:
    return dict.fromkeys(SCHEMAS[table].names) | known


@pytest.mark.parametrize("indexed", [False, True])
def test_pages_of_work_go_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool) -> None:
    """Rows are written again as their work goes on, which puts the oldest behind the newest."""
    monkeypatch.setattr(upkeep, "INDEX_FROM", 64 if indexed else 10**6)
    store, draw = Store(tmp_path), random.Random(3)
    rows = [
        blank("work", work_id=f"w{number:03d}", kind=draw.choice(["video", "head"]), created_at=1.7e9 + number // 3 / 7)
        for number in range(150)
    ]
    for first in range(0, 150, 25):
        store.upsert("work", rows[first : first + 25])
        store.upsert("work", draw.sample(rows[: first + 25], 10))
    if indexed:
        store.tidy("work")
    for kind in (None, "head"):
        order = [(one["created_at"], one["work_id"]) for one in rows if kind in (None, one["kind"])]
        for newest_first in (True, False):
            found, after = list[tuple[float, str]](), None
            while page := work_page(store, kind, 7, after, newest_first):
                found += [(one["created_at"], one["work_id"]) for one in page]
                after = found[-1]
            assert found == sorted(order, reverse=newest_first)
    behind_one_unwritten = work_page(store, None, 3, (rows[70]["created_at"], "w070~"), False)
    assert [one["work_id"] for one in behind_one_unwritten] == ["w071", "w072", "w073"]


def test_pages_of_pictures_are_of_one_person_or_of_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [
        blank("images", image_id=f"{n * 37 % 50:03d}", identity_id=f"p{n % 3}", created_at=f"{n // 4:03d}")
        for n in range(50)
    ]
    store.upsert("images", rows)
    newest = sorted(rows, key=lambda one: (one["created_at"], one["image_id"]), reverse=True)
    first = image_page(store, 5)
    assert [one["image_id"] for one in first] == [one["image_id"] for one in newest[:5]] and "image" not in first[0]
    own = [one["image_id"] for one in newest if one["identity_id"] == "p1"]
    assert [one["image_id"] for one in image_page(store, 4, own[2], "p1")] == own[3:7]
    with pytest.raises(LookupError, match="no image 'nobody'"):
        image_page(store, 5, "nobody")
