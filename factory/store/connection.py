"""How a Lance table is opened, on a disk or on a store."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import quote

import lance
import pyarrow.fs as pafs

from factory.files import filesystem, is_stored, s3_endpoint
from factory.storage import STORAGE, az_options, gs_options, lance_options, scheme_of
from factory.store.columns import check_columns
from factory.store.schemas import Table

_INDEX_CACHE, _METADATA_CACHE = 2**28, 2**27  # bytes a process, at most
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
    OSError if it is damaged.
    """
    dataset = _newest(uri, options)
    if dataset is None and _lacks_versions(uri):
        dataset = _newest(uri, options)  # somebody may have made it meanwhile, and written to it
        if dataset is None:
            raise OSError(
                f"table {uri} is damaged: it has files with rows, and no version that names them; copy "
                f"{uri}/_versions from a backup, or move the table away to begin it anew"
            )
    if dataset is not None:
        check_columns(uri, table, dataset.schema)
    return dataset


def _newest(uri: str, options: Options) -> lance.LanceDataset | None:
    try:
        session = _session(*map(os.environ.get, SETTINGS))
        return lance.dataset(lance_uri(uri), storage_options=options, session=session)
    except (ValueError, OSError) as error:
        if "was not found" in str(error):
            return None
        if is_stored(uri):
            raise
        # Lance names neither the table nor a remedy
        raise OSError(f"table {uri} is damaged: copy it from a backup, or move it away ({error})") from error


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
