"""How a Lance table is opened, on a disk or on a store."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import quote

import lance
import pyarrow.fs as pafs

from factory.errors import TableDamaged
from factory.files import filesystem, is_stored, s3_endpoint
from factory.storage import STORAGE, az_options, gs_options, lance_options, scheme_of
from factory.store.columns import check_columns
from factory.store.schemas import SCHEMAS, Table
from factory.store.whole import damaged, lacking, plain

_INDEX_CACHE, _METADATA_CACHE = 2**28, 2**27  # bytes a process, at most
_WHOLE: Final = set[str]()  # uris of tables of which this process saw once that all their files are there
_TORN: Final = ("too small", "magic", "corrupt", "decode", "eof")  # of a version that was cut short on a store
_KEPT: Final = "".join(chr(code) for code in range(128) if chr(code) not in "#?%")
Options: TypeAlias = dict[str, str] | None
SETTINGS: Final = (  # whose connections one process may not mix
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_ACCESS_KEY_ID", STORAGE),
    *("GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_NAME"),
)


def storage_options(root: str) -> Options:
    """What Lance must be told beside the environment. Raises ValueError for settings that the store has not."""
    if not is_stored(root):
        return None
    told = {"s3": lambda: lance_options(s3_endpoint()), "gs": gs_options, "az": az_options}
    return told[scheme_of(root)]() or None


def lance_uri(uri: str) -> str:
    """How Lance is told where something is: what lies on a store it reads as a URL, where #, ? and % mean something."""
    return quote(uri, safe=_KEPT) if is_stored(uri) else uri


def open_table(uri: str, table: Table, options: Options) -> lance.LanceDataset | None:
    """A table's newest version; None if there is no table yet.

    An older version's table may lack columns that came later. Raises ValueError if it has other columns than ours,
    TableDamaged if files of it are missing or cut short, as far as a process sees that when it first opens it.
    """
    dataset = _newest(uri, options)
    if dataset is None and _lacks_versions(uri):
        dataset = _newest(uri, options)  # somebody may have made it meanwhile, and written to it
        if dataset is None:
            raise TableDamaged(
                f"table {uri} is damaged: it has files with rows, and no version that names them; copy "
                f"{uri}/_versions from a backup, or move the table away to begin it anew"
            )
    if dataset is not None:
        check_columns(uri, table, dataset.schema)
        dataset = dataset if uri in _WHOLE else _seen_whole(dataset, uri, options)
    return dataset


def check_tables(root: str) -> None:
    """Raises TableDamaged if files of a table of this root are missing or cut short: before work begins."""
    options, uris = storage_options(root), [f"{root}/{table}.lance" for table in SCHEMAS]

    def check(uri: str) -> None:
        if uri not in _WHOLE and (dataset := _newest(uri, options)) is not None:
            _seen_whole(dataset, uri, options)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(check, uris))


def _seen_whole(dataset: lance.LanceDataset, uri: str, options: Options) -> lance.LanceDataset:
    """The table's newest version, whose files are all there. Raises TableDamaged."""
    while fault := lacking(dataset, uri):
        newest = _newest(uri, options)
        if newest is None or newest.version == dataset.version:
            raise damaged(uri, fault)
        dataset = newest  # an eraser may have removed the one before meanwhile
    _WHOLE.add(uri)
    return dataset


def _newest(uri: str, options: Options) -> lance.LanceDataset | None:
    try:
        session = _session(*map(os.environ.get, SETTINGS))
        return lance.dataset(lance_uri(uri), storage_options=options, session=session)
    except (ValueError, OSError) as error:
        if "was not found" in str(error):
            return None
        if "(os error" in str(error):  # the system's: rights, a file in the way
            raise OSError(plain(str(error))) from error
        if is_stored(uri) and not any(sign in str(error).lower() for sign in _TORN):
            raise
        # Lance names neither the table nor a remedy
        raise damaged(uri, f"its newest version cannot be read ({plain(str(error))})") from error


def _lacks_versions(uri: str) -> bool:
    """Whether what has no version has files with rows, which would be lost if it were begun anew. Our first commit is
    one without rows, so a killed one leaves none. On a store this is looked for once a process: each commit asks for
    tables that are not there yet."""
    return not _was_absent(uri) if is_stored(uri) else _has_rows(uri)


@lru_cache(maxsize=256)
def _was_absent(uri: str) -> bool:
    return not _has_rows(uri)


def _has_rows(uri: str) -> bool:
    files, path = filesystem(f"{uri}/data")
    return bool(files.get_file_info(pafs.FileSelector(path, allow_not_found=True)))


@lru_cache(maxsize=1)
def _session(*settings: str | None) -> lance.Session:
    """This process's cache of files' metadata and index pages: without one, each look-up would read them anew. It keeps
    connections, too, so it belongs to the settings of S3."""
    return lance.Session(index_cache_size_bytes=_INDEX_CACHE, metadata_cache_size_bytes=_METADATA_CACHE)
