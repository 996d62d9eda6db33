"""How stores of files are reached: what `--storage KEY=VALUE`, or the environment, says beside the AWS_* variables.

What `--photos-storage` says stands for photos in its place, as they may be in another store than the tables.

S3, Google's and Azure's stores are read by Arrow's own clients, and their tables by Lance's; S3 by s3fs where the
requester pays, which Arrow does not know. Any other scheme is read by the fsspec package that knows it, and gets the
settings as that package names them.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from factory.profiles import arrow_keys, region_of

if TYPE_CHECKING:  # imported where it is needed: the commands' help is not to wait for it
    import pyarrow.fs as pafs

STORAGE: Final = "IDENTITY_FACTORY_STORAGE"  # environment variable: KEY=VALUE, several with blanks between
PHOTOS_STORAGE: Final = "IDENTITY_FACTORY_PHOTOS_STORAGE"  # the same of photos alone
_OPTIONS: Final = {STORAGE: "--storage", PHOTOS_STORAGE: "--photos-storage"}
S3_SETTINGS: Final = {
    "endpoint": "the server's URL, in place of AWS's",
    "region": "in place of AWS_REGION",
    "anonymous": "true: without keys, for public buckets",
    "requester_pays": "true: whose bucket it is does not pay for what is read",
    "path_style": "true or false: the bucket in the path, or in the host's name",
}
GS_SETTINGS: Final = {"anonymous": "true: without GOOGLE_APPLICATION_CREDENTIALS, for public buckets"}
AZ_SETTINGS: Final = {
    "account_name": "of the storage account, in place of AZURE_STORAGE_ACCOUNT_NAME",
    "account_key": "in place of AZURE_STORAGE_ACCOUNT_KEY",
    "sas_token": "in place of AZURE_STORAGE_SAS_TOKEN",
}
PROFILE: Final = {"profile": "of ~/.aws, whose keys, region and server count"}  # of photos; tables take AWS_PROFILE
_SETTINGS: Final = {"s3": S3_SETTINGS, "gs": GS_SETTINGS, "az": AZ_SETTINGS}
STORES: Final = tuple(_SETTINGS)  # schemes of tables
_TEXTS: Final = ("endpoint", "region", *PROFILE, *AZ_SETTINGS)  # other settings are true or false
_OF_A_LISTING: Final = {"Name", "Prefix", "KeyCount", "MaxKeys", "IsTruncated"}  # some of it is in each of S3's
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://")
_PACKAGES: Final = {"gcs": "gcsfs, or write gs://, which is read without one"}
AZURE: Final = ("abfs", "abfss", "wasb", "wasbs")  # what Hadoop, Spark and Databricks call az://


def scheme_of(uri: str) -> str:
    """Of a uri; empty for what lies on this machine's disks."""
    found = _SCHEME.match(uri)
    return "" if found is None or found[1] == "file" else found[1]


def plain(uri: str) -> str:
    """A uri with the scheme that is S3's here, where Hadoop and Spark wrote theirs."""
    return re.sub("^s3[an]://", "s3://", uri)


def of_azure(uri: str) -> tuple[str, str]:
    """The account, empty if it is not told, and CONTAINER/PATH of a uri of AZURE: abfss://CONTAINER@ACCOUNT.dfs.core.
    windows.net/PATH, or abfs://CONTAINER/PATH. Raises ValueError for what is no account's name."""
    authority, _, path = uri.partition("://")[2].partition("/")
    container, at, host = authority.partition("@")
    account = host.partition(".")[0]
    if at and not re.fullmatch("[a-z0-9]{3,24}", account):
        raise ValueError(f"{uri} names no account of Azure: write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH")
    return account, f"{container}/{path}"


def remember(given: Sequence[str], by: str = STORAGE) -> None:
    """Keeps KEY=VALUE settings for this process and those that it starts. Raises ValueError for what is none."""
    _parsed(given, by)
    os.environ[by] = shlex.join(given)


def check_used(given: Sequence[str], uris: Iterable[str], by: str = STORAGE) -> bool:
    """Whether a store that may be among these uris reads KEY=VALUE settings: S3's are for rows of a list, too.

    Raises ValueError for one that none of them has: mistyped, it would do nothing in silence. Where a package of fsspec
    is in play, any is its own.
    """
    schemes = {"az" if (scheme := scheme_of(uri)) in AZURE else scheme for uri in uris} - {""}
    if schemes - set(STORES):
        return True
    there = [key for scheme in ("s3", *sorted(schemes - {"s3"})) for key in _there(scheme, by)]
    for key in _parsed(given, by):
        if key not in there:
            near = difflib.get_close_matches(key, there, n=1)
            where = "no store of this command" if schemes else "nothing of this command is on a store, and none"
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(dict.fromkeys(there))}"
            raise ValueError(f"{_OPTIONS[by]} {key}: {where} has such a setting; {hint}")
    return bool(schemes)


def settings(by: str = STORAGE) -> dict[str, str]:
    """What was said; of photos as of all, if nothing was said of them alone. Raises ValueError."""
    by = _in_use(by)
    return _parsed(shlex.split(os.environ.get(by, "")), by)


def _in_use(by: str) -> str:
    return by if os.environ.get(by) else STORAGE


def _there(scheme: str, by: str) -> dict[str, str]:
    return _SETTINGS[scheme] | (PROFILE if (scheme, by) == ("s3", PHOTOS_STORAGE) else {})


def _parsed(given: Sequence[str], by: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if wrong := [text for text, (key, equals, _) in zip(given, pairs, strict=True) if not key or not equals]:
        raise ValueError(f"{_OPTIONS[by]} takes KEY=VALUE, not {wrong[0]!r}; of S3: {', '.join(_there('s3', by))}")
    return {key: value for key, _, value in pairs}


def s3_files(endpoint: str | None, by: str = STORAGE) -> pafs.FileSystem:
    """S3 as the settings say, at this server (None: AWS). Raises ValueError for a setting that S3 has not, OSError if a
    profile tells no keys."""
    import pyarrow.fs as pafs

    said = _said("s3", by)
    if said.get("requester_pays"):
        return of_fsspec("s3", s3fs_options(endpoint, by))
    own = said.get("profile")
    arrow: dict[str, Any] = {"anonymous": True} if said.get("anonymous") else dict(arrow_keys(own))
    region = said.get("region") or (own and region_of(own))
    arrow |= {"region": region} if region else {}
    arrow |= {"force_virtual_addressing": not said["path_style"]} if "path_style" in said else {}
    if bundle := os.environ.get("AWS_CA_BUNDLE"):  # which AWS's own tools read
        arrow["tls_ca_file_path"] = bundle
    retries = pafs.AwsStandardS3RetryStrategy(max_attempts=10)
    return pafs.S3FileSystem(endpoint_override=endpoint, retry_strategy=retries, **arrow)


def s3fs_options(endpoint: str | None, by: str = STORAGE) -> dict[str, Any]:
    """The same for s3fs. Raises ValueError, as `s3_files` does."""
    said = _said("s3", by)
    own: dict[str, Any] = {"endpoint_url": endpoint, "anon": bool(said.get("anonymous"))}
    own |= {"profile": said["profile"]} if "profile" in said else {}
    own |= {"requester_pays": True} if said.get("requester_pays") else {}
    own |= {"client_kwargs": {"region_name": said["region"]}} if "region" in said else {}
    own |= {"config_kwargs": {"s3": {"addressing_style": _addressing(said)}}} if "path_style" in said else {}
    return own


def s3_keys(
    endpoint: str | None,
    bucket: str,
    prefix: str,
    *,
    at_once: int = 1000,
    limit_s: float | None = None,
    by: str = STORAGE,
) -> Iterator[str]:
    """Keys that begin so, as the server tells them, `at_once` at a time: Arrow knows none before it knows all. With a
    limit it is asked once, and nothing is waited for longer.

    Raises OSError, and ValueError as `s3_files` does.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    payer = {"RequestPayer": "requester"} if _said("s3", by).get("requester_pays") else {}
    try:
        client = s3_client(endpoint, limit_s, by)
        pages = client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": at_once}, **payer):
            if not _OF_A_LISTING & page.keys():
                raise ResponseParserError("the answer is no listing")
            yield from (entry["Key"] for entry in page.get("Contents", ()))
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        raise OSError(f"s3://{bucket}/{prefix} cannot be listed: {error}") from error


def s3_client(endpoint: str | None, limit_s: float | None = None, by: str = STORAGE) -> Any:
    """botocore's client of S3 as the settings say; with a limit it tries once, and waits no longer.

    Raises ValueError as `s3_files` does, and botocore's errors.
    """
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.session import Session

    said = _said("s3", by)
    own: dict[str, Any] = {"retries": {"max_attempts": 10 if limit_s is None else 0}}
    own |= {} if limit_s is None else {"connect_timeout": limit_s, "read_timeout": limit_s}
    own |= {"signature_version": UNSIGNED} if said.get("anonymous") else {}
    own |= {"s3": {"addressing_style": _addressing(said)}} if "path_style" in said else {}
    return Session(profile=said.get("profile")).create_client(
        "s3", endpoint_url=endpoint, region_name=said.get("region"), config=Config(**own)
    )


def _addressing(said: Mapping[str, Any]) -> str:
    return "path" if said["path_style"] else "virtual"


def lance_options(endpoint: str | None) -> dict[str, str]:
    """The same for Lance, as its object store names it."""
    said, options = _said("s3"), dict[str, str]()
    if endpoint is not None:
        options |= {"aws_endpoint": endpoint, **({"allow_http": "true"} if endpoint.startswith("http://") else {})}
    options |= {"aws_region": str(said["region"])} if "region" in said else {}
    options |= {"aws_skip_signature": "true"} if said.get("anonymous") else {}
    options |= {"aws_request_payer": "true"} if said.get("requester_pays") else {}
    if "path_style" in said:
        options["aws_virtual_hosted_style_request"] = "false" if said["path_style"] else "true"
    return options


def of_fsspec(scheme: str, own: Mapping[str, Any] | None = None, uri: str = "") -> pafs.FileSystem:
    """A scheme's files through fsspec, with what a uri says of their server.

    Raises ValueError, with the remedy, if no package that reads it is installed, if it is not told enough, or
    told a password.
    """
    import fsspec
    import pyarrow.fs as pafs

    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise ValueError(f"{scheme}:// is not read: no package of fsspec knows it; copy the photos to a disk") from None
    except ImportError as error:
        remedy = f"pip install {_PACKAGES[scheme]}" if scheme in _PACKAGES else str(error)
        raise ValueError(f"{scheme}:// needs a package that is not installed: {remedy}") from None
    try:
        told = kind._get_kwargs_from_urls(uri)
        if told.get("password"):
            raise ValueError(
                "a password does not belong into an address, which is stored and shown: write "
                f"{scheme}://USER@HOST/..., and before the command --storage password=TEXT"
            )
        files = kind(**(told | settings(PHOTOS_STORAGE) if own is None else own))
    except (TypeError, ImportError, OSError) as error:
        said = str(error).strip().partition("\n")[0][:200]
        raise ValueError(
            f"{scheme}:// cannot be opened ({said}): --storage KEY=VALUE tells its package more, or copy the photos "
            "to a disk"
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(files))


def gs_files(by: str = STORAGE) -> pafs.FileSystem:
    """Google's store, with the credentials of the environment. Raises ValueError for a setting that it has not."""
    import pyarrow.fs as pafs

    patience = timedelta(seconds=60)  # else a quarter of an hour, also where there are no credentials
    return pafs.GcsFileSystem(anonymous=bool(_said("gs", by).get("anonymous")), retry_time_limit=patience)


def az_files(account: str = "", by: str = STORAGE) -> pafs.FileSystem:
    """Azure's store of one account, by default of that which is set. Raises ValueError without one, or for a setting
    that it has not."""
    import pyarrow.fs as pafs

    return pafs.AzureFileSystem(**_azure(account, by))


def gs_options() -> dict[str, str]:
    """What Lance must be told of Google's store beside the environment. Raises ValueError, as `gs_files` does."""
    return {"google_skip_signature": "true"} if _said("gs").get("anonymous") else {}


def az_options() -> dict[str, str]:
    """The same of Azure's. Raises ValueError, as `az_files` does."""
    return {f"azure_storage_{name}": value for name, value in _azure().items()}


def _azure(account: str = "", by: str = STORAGE) -> dict[str, str]:
    said = _said("az", by)
    names = {name: said.get(name) or os.environ.get(f"AZURE_STORAGE_{name.upper()}") for name in AZ_SETTINGS}
    if account and names["account_name"] not in (None, account):  # what opens that one is not shown to another
        names = dict.fromkeys(AZ_SETTINGS)
    known = {name: value for name, value in (names | ({"account_name": account} if account else {})).items() if value}
    if "account_name" not in known:
        raise ValueError("az:// needs an account: set AZURE_STORAGE_ACCOUNT_NAME, or --storage account_name=NAME")
    if "account_key" in known:
        known.pop("sas_token", None)  # Arrow takes one of both
    return known


def _said(scheme: str, by: str = STORAGE) -> dict[str, Any]:
    by = _in_use(by)
    there, said = _there(scheme, by), dict[str, Any]()
    for key, value in settings(by).items():
        if key not in there:
            raise ValueError(f"{_OPTIONS[by]} {key}: {scheme}:// has no such setting; there are {', '.join(there)}")
        if key in _TEXTS:
            said[key] = value
        elif value in ("true", "false"):
            said[key] = value == "true"
        else:
            raise ValueError(f"{_OPTIONS[by]} {key} is true or false, not {value!r}")
    return said
