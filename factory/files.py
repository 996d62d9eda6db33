"""Where files are: a local path, s3://, gs:// or az://. Light to import: it knows no tables."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pyarrow.fs as pafs

from factory.errors import OutputError
from factory.storage import (
    AZURE,
    PHOTOS_STORAGE,
    STORAGE,
    STORES,
    az_files,
    gs_files,
    of_azure,
    of_fsspec,
    s3_files,
    scheme_of,
    settings,
)

_OF_DISKS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # errors of what is written alone


def filesystem(uri: str, by: str = STORAGE) -> tuple[pafs.FileSystem, str]:
    """Arrow's file system and the path in it, for a local path or a uri of s3://, gs:// or az:// (with the variables
    that these stores' own tools read, and `by`, the one that holds our settings).

    Raises ValueError if the name is no text: a file of any name can be a photo, but not a place that is written to.
    """
    if not uri.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in uri):
        raise ValueError(f"{shown(uri)} is no name in UTF-8; give another one")
    if (scheme := scheme_of(uri)) in STORES:
        path = uri.removeprefix(f"{scheme}://")
        if not path.partition("/")[0]:
            raise ValueError(f"{uri} names no bucket; write {scheme}://BUCKET/PREFIX")
        if path.startswith("arn:"):
            raise ValueError(f"{uri} is an ARN: write s3://NAME/PREFIX, of an access point its alias (...-s3alias)")
        if scheme == "s3" and "@" in path.partition("/")[0]:
            raise ValueError(
                "keys do not belong into an address, which is stored and shown: set AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY, and write s3://BUCKET/PREFIX"
            )
        files = {
            "s3": lambda: s3_files(s3_endpoint(by), by),
            "gs": lambda: gs_files(by),
            "az": lambda: az_files("", by),
        }
        return files[scheme](), path
    return pafs.LocalFileSystem(), local_path(uri)


def photo_files(uri: str) -> tuple[pafs.FileSystem, str]:
    """As `filesystem`, also of any scheme that an installed package of fsspec reads: for photos, not for tables.

    Raises ValueError, with the remedy, if there is none.
    """
    scheme = scheme_of(uri)
    if scheme in ("", *STORES):
        return filesystem(uri, PHOTOS_STORAGE)
    if scheme in AZURE:
        account, path = of_azure(uri)
        return az_files(account, PHOTOS_STORAGE), path
    files = of_fsspec(scheme, uri=uri)
    return files, str(files.handler.fs._strip_protocol(uri))


def is_stored(root: str) -> bool:
    """Whether a root lies on a store, not on a disk."""
    return scheme_of(root) in STORES


def s3_endpoint(by: str = STORAGE) -> str | None:
    """The S3 server that `--storage` names (of photos `--photos-storage`, or its profile), or the environment, by the
    variable for S3 alone or by that for all of AWS's services, or that the profile in use names; None: AWS itself."""
    said = settings(by)
    config = Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()

    def of_profile(name: str | None) -> str | None:
        return _endpoint_of(str(config), name) if config.is_file() else None

    named = said.get("endpoint") or ("profile" in said and of_profile(said["profile"]))
    named = named or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return named or of_profile(os.environ.get("AWS_PROFILE"))


@cache
def _endpoint_of(config: str, profile: str | None) -> str | None:
    """What a profile of a configuration file says; Arrow does not look there. Raises ValueError if it is damaged."""
    from botocore.configloader import load_config
    from botocore.exceptions import BotoCoreError

    try:
        found = load_config(config)
    except BotoCoreError as error:
        raise ValueError(f"{config} cannot be read: {error}") from None
    own = found["profiles"].get(profile or "default", {})
    services = found.get("services", {}).get(own.get("services"), {})
    endpoint: str | None = services.get("s3", {}).get("endpoint_url") or own.get("endpoint_url")
    return endpoint


def local_path(uri: str) -> str:
    """The absolute path that a local path or a file: uri means. Raises ValueError if it is empty, or elsewhere."""
    if not uri:
        raise ValueError("a path is empty; is a variable not set?")
    if typo := re.match("(s3|gs|az|file):(?!/)|(s3|gs|az):/(?!/)", uri):
        raise ValueError(f"{uri} is neither a path nor an address: write {typo[1] or typo[2]}://")
    if uri.startswith("dbfs:/"):
        raise ValueError(
            f"{uri}: on Databricks write /dbfs/{uri.removeprefix('dbfs:').lstrip('/')}, where it is mounted"
        )
    scheme, is_uri, _ = uri.partition("://")
    if is_uri and scheme.isalnum() and scheme != "file":
        there = ", ".join(f"{one}://" for one in STORES)
        raise ValueError(f"{scheme}:// is not written, and no tables are read there: local paths and {there} are")
    if uri.startswith("file:/"):
        uri = unquote(urlsplit(uri).path, errors="surrogateescape")
    return str(Path(uri).expanduser().absolute())


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Where to write what is to be this file, which is there whole or not at all, also on a disk that is full; a link
    or a device (/dev/stdout) is written through. Of two who write it at once the last one's is there.

    Raises OutputError if it cannot be written. What is read meanwhile and cannot be is not this file's fault: its
    error stays what it is.
    """
    is_through = _is_written_through(file)
    part = file if is_through else file.with_name(f".{secrets.token_hex(8)}.part")  # short, as its own may be long
    try:
        yield part
        if not is_through:
            part.replace(file)
    except BaseException as error:
        if not is_through:
            with suppress(OSError):
                part.unlink()
        if isinstance(error, OSError) and (error.errno in _OF_DISKS or str(part) in f"{error.filename} {error}"):
            raise OutputError(
                f"{file} cannot be written: {error.strerror or error}".replace(str(part), str(file))
            ) from None
        raise


def _is_written_through(file: Path) -> bool:
    try:
        return file.is_symlink() or (file.exists() and not file.is_file())
    except OSError:  # it cannot be there, as its name is too long: told once it is to be written
        return False


def write_whole(file: Path, data: bytes) -> None:
    """A file of these bytes, as `written_whole`."""
    with written_whole(file) as part:
        part.write_bytes(data)


def shown(text: str) -> str:
    """Text of any origin for a table or a terminal: bytes that are no UTF-8 are escaped."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_root(root: str) -> None:
    """Raises ValueError if there is no such folder, or if it is a file: so a mistyped --root is told at once."""
    files, path = filesystem(root)
    kind = files.get_file_info(path).type
    if kind != pafs.FileType.Directory:
        what = "does not exist" if kind == pafs.FileType.NotFound else "is a file"
        raise ValueError(f"--root {root} {what}; `identity-factory run --photos SRC --root ROOT` makes one")


def check_tables(root: str) -> None:
    """Raises ValueError if a folder holds no tables: "nobody is left there" would be true, and of no use."""
    check_root(root)
    files, path = filesystem(root)
    there = files.get_file_info(pafs.FileSelector(path))
    if not any(info.base_name.endswith(".lance") or info.base_name in (TENANTS, "settings.toml") for info in there):
        raise ValueError(f"--root {root} is no root of ours: it holds no tables")


TENANTS = "tenants"  # folder of a root, with a root for each


def tenant_root(root: str, tenant: str | None) -> str:
    """Where a tenant's tables are: a root of its own under the operator's, so that no query can forget a condition.

    None is the operator's own. Raises ValueError if it is no name: 1 to 64 of a-z 0-9 _ -, no path.
    """
    if tenant is None:
        return root
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", tenant):
        raise ValueError(f"tenant {tenant!r}: write 1 to 64 of a-z, 0-9, _ and -, a letter or digit first")
    return f"{root.rstrip('/')}/{TENANTS}/{tenant}"


def all_roots(root: str) -> list[str]:
    """An operator's root, and those of all its tenants, sorted. Raises ValueError for a tenant's."""
    if operator_root(root) != root.rstrip("/"):
        raise ValueError(f"{root} is one tenant's; all tenants are under {operator_root(root)}")
    files, path = filesystem(f"{root.rstrip('/')}/{TENANTS}")
    entries = files.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = sorted(entry.base_name for entry in entries if entry.type == pafs.FileType.Directory)
    return [root, *(tenant_root(root, name) for name in names)]


def operator_root(root: str) -> str:
    """The root that a tenant's root is under; any other one is its own."""
    above, name, tenant = root.rstrip("/").rpartition(f"/{TENANTS}/")
    return above if name and "/" not in tenant else root
