"""The store: Lance tables under one root (a local path, s3://, gs:// or az://).

They are the factory's only state, and the checkpoint of every job: a stage asks which ids are there, works on the
rest, and upserts each finished batch in one atomic commit. Ids are content-addressed, so writing a row twice changes
nothing. Rows of erased people (factory/store/erase.py) are never written. The columns are in factory/store/schemas.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq

from factory.errors import IdentityNotFound
from factory.files import filesystem, is_stored
from factory.ids import face_id, faces_called, spellings
from factory.records import GeneratedImage, Identity, PictureMetrics, PreparedFace, Reject
from factory.store.columns import as_stored, with_columns
from factory.store.commits import open_to_write, retried, throw_back
from factory.store.connection import open_table, storage_options
from factory.store.marked import marked_rows, marked_schema
from factory.store.paging import page_behind
from factory.store.rows import face_from_row, identity_from_row, image_from_row, metrics_from_row
from factory.store.schemas import KEYS, SCHEMAS, Table
from factory.store.sql import where_in
from factory.store.tombstones import Tombstones
from factory.store.upkeep import after_commit, drop_deleted, tidy
from factory.store.upserts import replace, upsert

if TYPE_CHECKING:  # the library that signs is loaded where something leaves
    from factory.provenance.marks import Marker

_NEAR_AMONG = 10_000  # identities of which near names are looked for
_NAMES_AT_ONCE = 1000  # in one condition
_OF_ONE_NAME = 8  # identities whose words are read together; of more, only those of the newest


def _rows(dataset: lance.LanceDataset | None, table: Table, columns: list[str] | None, where: str | None) -> pa.Table:
    schema = SCHEMAS[table] if columns is None else pa.schema([SCHEMAS[table].field(name) for name in columns])
    if dataset is None:
        return schema.empty_table()
    there = [name for name in schema.names if name in dataset.schema.names]  # none: all came later
    rows = dataset.to_table(columns=there or KEYS[table], filter=as_stored(table, dataset.schema, where))
    return with_columns(rows, schema)


def _called(names_or_ids: Sequence[str]) -> str:
    return f"{where_in('identity_id', names_or_ids)} OR {where_in('name', names_or_ids)}"


def _age(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["created_at"], row["identity_id"]


def _rank(row: Mapping[str, Any], an_id: str) -> tuple[Any, ...]:
    """An id comes before a name, and then the newest of a name."""
    return row["identity_id"] == an_id, *_age(row)


class Store:
    """The tables under one root. It holds no connection or state: cheap to make anywhere, and it pickles."""

    def __init__(self, root: str | Path) -> None:
        text = str(root)
        # Absolute, because workers have another working directory.
        self.root = text.rstrip("/") if is_stored(text) else filesystem(text)[1]
        self._options = storage_options(self.root)

    def uri(self, table: Table) -> str:
        """Where a table is."""
        return f"{self.root}/{table}.lance"

    def open(self, table: Table) -> lance.LanceDataset | None:
        """The table's newest version, None if there is no table yet.

        An older version's table may lack columns that came later. Raises ValueError if it has other columns than ours.
        """
        return open_table(self.uri(table), table, self._options)

    def read(self, table: Table, *, columns: list[str] | None = None, where: str | None = None) -> pa.Table:
        """Rows of a table, `where` in SQL; an empty table if there is none yet. Begun anew if an eraser comes."""
        return retried(lambda: _rows(self.open(table), table, columns, where))

    def batches(self, table: Table, columns: list[str], where: str | None = None) -> Iterator[pa.Table]:
        """As `read`, some thousand rows at a time. Raises OSError if an eraser comes meanwhile."""
        dataset = self.open(table)
        if dataset is None:
            return
        schema = pa.schema([SCHEMAS[table].field(name) for name in columns])
        there = [name for name in columns if name in dataset.schema.names]
        where_there = as_stored(table, dataset.schema, where)
        for batch in dataset.to_batches(columns=there or KEYS[table], filter=where_there):
            yield with_columns(pa.Table.from_batches([batch]), schema)

    def count(self, table: Table) -> int:
        """Number of rows."""
        dataset = self.open(table)
        return 0 if dataset is None else int(dataset.count_rows())

    def existing_ids(self, table: Table, *, where: str | None = None) -> set[str]:
        """The ids that are there already: what a job need not do again."""
        return set(self.read(table, columns=[KEYS[table][0]], where=where).column(0).to_pylist())

    def upsert(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Inserts rows and replaces those with the same key, in one atomic commit, done anew when another came first.

        Rows of people erased until then are left out, however this ends: an eraser sets the tombstone and then throws
        back whatever is under way (`purge`), so a commit that succeeds has seen all tombstones that it must.
        """
        self.upsert_table(table, pa.Table.from_pylist(list(rows), SCHEMAS[table]))

    def upsert_table(self, table: Table, rows: pa.Table) -> None:
        """The same of rows in Arrow's form, with all of the table's columns; of rows with one key the last counts."""
        self._merge(table, rows)

    def replace(self, table: Table, rows: Sequence[dict[str, Any]], where: str) -> None:
        """As `upsert`, but inserts none, and replaces only rows of which `where` holds now (SQL; their columns are
        `target.NAME`)."""
        self._merge(table, pa.Table.from_pylist(list(rows), SCHEMAS[table]), where)

    def _merge(self, table: Table, rows: pa.Table, where: str | None = None) -> None:
        self.commit_rows(table, rows, where)

    def commit_rows(self, table: Table, rows: pa.Table, where: str | None = None) -> None:
        """As `upsert_table`, or with `where` as `replace`; in a commit of its own, by this process."""
        dataset = retried(partial(self._merge_once, table, rows, where)) if rows.num_rows else None
        if dataset is not None:
            after_commit(dataset, table)

    def _merge_once(self, table: Table, rows: pa.Table, where: str | None) -> lance.LanceDataset | None:
        dataset = open_to_write(self.uri(table), table, self._options)
        erased = self.tombstones()  # only now: what is written must follow this version, or fail
        kept = erased.spared(table, rows)
        if not kept:
            return None
        spared = rows if len(kept) == rows.num_rows else rows.take(pa.array(kept))
        return upsert(dataset, table, spared) if where is None else replace(dataset, table, spared, where)

    def tombstones(self) -> Tombstones:
        """Who was erased."""
        rows = self.read("tombstones", columns=["salt", "digest"])
        return Tombstones(frozenset(rows["salt"].to_pylist()), frozenset(rows["digest"].to_pylist()))

    def delete(self, table: Table, where: str) -> int:
        """Deletes rows, `where` in SQL, and returns how many; their bytes stay on disk until the next tidying."""
        return retried(partial(self._delete_once, table, where))

    def _delete_once(self, table: Table, where: str) -> int:
        dataset = self.open(table)
        num = 0 if dataset is None else int(dataset.count_rows(filter=where))
        if dataset is not None and num:
            dataset.delete(where, conflict_retries=50, retry_timeout=timedelta(minutes=5))
        return num

    def purge(self, table: Table, where: str) -> int:
        """Deletes rows, and every version and file of the table that still holds them; returns how many rows.

        Upserts that are under way fail and begin anew, with the tombstones of now; so do reads whose version is gone.
        """
        if self.open(table) is None:
            return 0
        uri, options = self.uri(table), self._options
        retried(lambda: throw_back(open_to_write(uri, table, options), options))
        num = self.delete(table, where)
        retried(lambda: drop_deleted(open_to_write(uri, table, options), table, options))
        return num

    def tidy(self, table: Table) -> None:
        """Joins the small files that many small commits leave, and keeps the indexes up. Safe beside running jobs."""
        dataset = self.open(table)
        if dataset is not None:
            tidy(dataset, table, whole=True)

    def faces(self, ids: Sequence[str] | None = None, *, pack: str | None = None) -> list[PreparedFace]:
        """Faces, all or those with these ids (in that order), of one pack if it is named."""
        clauses = [where_in("face_id", ids)] if ids is not None else []
        clauses += [where_in("pack", [pack])] if pack is not None else []
        rows = self.read("faces", where=" AND ".join(clauses) or None).to_pylist()
        if ids is not None:
            order = {face_id: i for i, face_id in enumerate(ids)}
            rows.sort(key=lambda row: order[row["face_id"]])
        return [face_from_row(row) for row in rows]

    def identities(self, names_or_ids: Sequence[str] | None = None) -> list[Identity]:
        """All identities, newest last, or the named ones, each as `find_identity` does (IdentityNotFound)."""
        if names_or_ids is None:
            rows = self.read("identities").to_pylist()
            return [identity_from_row(row) for row in sorted(rows, key=lambda row: (row["created_at"], row["name"]))]
        found: dict[str, Identity] = {}
        for first in range(0, len(names_or_ids), _NAMES_AT_ONCE):
            some = set(names_or_ids[first : first + _NAMES_AT_ONCE])
            rows = self.read("identities", where=_called(sorted(some)))
            for column in ("name", "identity_id"):  # an id comes before a name, and the newest of a name
                newest_last = sorted(rows.to_pylist(), key=_age)
                found |= {row[column]: identity_from_row(row) for row in newest_last if row[column] in some}
        return [found.get(name) or self.find_identity(name) for name in names_or_ids]

    def identity_page(
        self, limit: int, after: str | None = None, fingerprint: str | None = None
    ) -> list[dict[str, Any]]:
        """At most `limit` identities, newest first, without their words: identity_id, name, pack and created_at.

        Those of one text encoder if it is named; from the one that follows `after` (an identity_id; LookupError) on.
        """
        dataset = self.open("identities")
        if dataset is None:
            return []
        equal = {} if fingerprint is None else {"fingerprint": fingerprint}
        columns = ["identity_id", "name", "pack", "created_at"]
        return page_behind(dataset, "identity_id", columns, limit, after, equal)

    def name_owners(self, names: Sequence[str]) -> dict[str, str]:
        """The identity_id that each of these names stands for: the newest one's."""
        rows = self.read("identities", columns=["identity_id", "name", "created_at"], where=where_in("name", names))
        return {row["name"]: row["identity_id"] for row in sorted(rows.to_pylist(), key=_age)}

    def find_identity(self, name_or_id: str) -> Identity:
        """The identity with this id, else the newest with this name, else the newest of a photo that came under this
        name too; IdentityNotFound names near ones. A matter of milliseconds, however many there are."""
        found = retried(partial(self._newest, _called(spellings(name_or_id)), name_or_id))
        if found is None:
            others = where_in("face_id", self.faces_by_other_name(name_or_id))
            found = retried(partial(self._newest, others))
        if found is None:
            raise IdentityNotFound(self.nobody_called(name_or_id))
        return found

    def _newest(self, where: str, an_id: str = "") -> Identity | None:
        """The identity with this id, else the newest of those that the condition holds for; of many, no other's words
        are read."""
        dataset = self.open("identities")
        if dataset is None:
            return None
        where_there = as_stored("identities", dataset.schema, where)
        few = dataset.to_table(filter=where_there, limit=_OF_ONE_NAME)
        if few.num_rows < _OF_ONE_NAME:
            rows = with_columns(few, SCHEMAS["identities"]).to_pylist()
            return identity_from_row(max(rows, key=lambda row: _rank(row, an_id))) if rows else None
        keys = dataset.to_table(columns=["identity_id", "created_at"], filter=where, with_row_id=True).to_pylist()
        newest = max(keys, key=lambda row: _rank(row, an_id))
        [row] = _rows(dataset, "identities", None, f"_rowid = {newest['_rowid']}").to_pylist()
        return identity_from_row(row)

    def nobody_called(self, name_or_id: str) -> str:
        """What to tell somebody who asked for this name or id: near names, or some that there are."""
        num = self.count("identities")
        if not num:
            return f"no identity {name_or_id!r}: {self.root} holds no identities yet"
        where = f"no identity {name_or_id!r} in {self.root}"
        if num > _NEAR_AMONG:
            return f"{where}, which holds {num:,}; `identity-factory identities list` shows them"
        names = sorted(set(self.read("identities", columns=["name"])["name"].to_pylist()))
        near = difflib.get_close_matches(name_or_id, names, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"it holds {len(names)}, such as {', '.join(names[:3])}"
        return f"{where}; {hint}"

    def faces_by_other_name(self, name: str) -> list[str]:
        """Face ids by the photo's other names (table `names`): "<name>" is the largest face, "<name>-<n>" face n, which
        need not exist."""
        numbers = dict(called for spelling in spellings(name) for called in faces_called(spelling))
        rows = self.read("names", where=where_in("name", list(numbers))).to_pylist()
        return [face_id(row["photo_id"], numbers[row["name"]]) for row in rows]

    def images(self, identity_ids: Sequence[str] | None = None) -> list[GeneratedImage]:
        """Images, all or those of these identities."""
        where = None if identity_ids is None else where_in("identity_id", identity_ids)
        return [image_from_row(row) for row in self.read("images", where=where).to_pylist()]

    def metrics(self, protocol: str) -> list[PictureMetrics]:
        """What was measured under a protocol."""
        rows = self.read("metrics", where=where_in("protocol", [protocol])).to_pylist()
        return [metrics_from_row(row) for row in rows]

    def rejects(self) -> list[Reject]:
        """What could not be used, and why."""
        return [Reject(**row) for row in self.read("rejects").to_pylist()]

    def export_parquet(self, table: Table, path: str | Path, marker: Marker | None = None) -> None:
        """Copies a table into one Parquet file, batch by batch, with the columns' documentation; given a marker, what a
        model made says so in it."""
        target, name = filesystem(str(path))
        dataset, schema = self.open(table), SCHEMAS[table] if marker is None else marked_schema(table)
        with pq.ParquetWriter(name, schema, filesystem=target) as writer:
            for batch in dataset.to_batches(batch_size=256) if dataset is not None else ():
                rows = with_columns(pa.Table.from_batches([batch]), SCHEMAS[table])
                writer.write_table((rows if marker is None else marked_rows(rows, table, marker)).cast(schema))
