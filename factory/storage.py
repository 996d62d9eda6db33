"""How stores of files are reached: what `--storage KEY=VALUE`, or the environment, says beside the AWS_* variables.

S3 is read by Arrow's own client; by s3fs where the requester pays, which Arrow does not know. Any other scheme is read
by the fsspec package that knows it, and gets the settings as that package names them.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # imported where it is needed: the commands' help is not to wait for it
    import pyarrow.fs as pafs

STORAGE: Final = "IDENTITY_FACTORY_STORAGE"  # environment variable: KEY=VALUE, several with blanks between
S3_SETTINGS: Final = {
    "endpoint": "the server's URL, in place of AWS's",
    "region": "in place of AWS_REGION",
    "anonymous": "true: without keys, for public buckets",
    "requester_pays": "true: whose bucket it is does not pay for what is read",
    "path_style": "true or false: the bucket in the path, or in the host's name",
}
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://")
_PACKAGES: Final = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}


def scheme_of(uri: str) -> str:
    """Of a uri; empty for what lies on this machine's disks."""
    found = _SCHEME.match(uri)
    return "" if found is None or found[1] == "file" else found[1]


def remember(given: Sequence[str]) -> None:
    """Keeps KEY=VALUE settings for this process and those that it starts. Raises ValueError for what is none."""
    _parsed(given)
    os.environ[STORAGE] = shlex.join(given)


def settings() -> dict[str, str]:
    """What was said. Raises ValueError."""
    return _parsed(shlex.split(os.environ.get(STORAGE, "")))


def _parsed(given: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if wrong := [text for text, (key, equals, _) in zip(given, pairs, strict=True) if not key or not equals]:
        raise ValueError(f"--storage takes KEY=VALUE, not {wrong[0]!r}; of S3: {', '.join(S3_SETTINGS)}")
    return {key: value for key, _, value in pairs}


def s3_files(endpoint: str | None) -> pafs.FileSystem:
    """S3 as the settings say, at this server (None: AWS). Raises ValueError for a setting that S3 has not."""
    import pyarrow.fs as pafs

    said = _s3_settings()
    if said.get("requester_pays"):
        own: dict[str, Any] = {"requester_pays": True, "endpoint_url": endpoint, "anon": bool(said.get("anonymous"))}
        if "path_style" in said:
            own["config_kwargs"] = {"s3": {"addressing_style": "path" if said["path_style"] else "virtual"}}
        if "region" in said:
            own["client_kwargs"] = {"region_name": said["region"]}
        return of_fsspec("s3", own)
    arrow: dict[str, Any] = {"anonymous": True} if said.get("anonymous") else {}
    arrow |= {"region": said["region"]} if "region" in said else {}
    arrow |= {"force_virtual_addressing": not said["path_style"]} if "path_style" in said else {}
    retries = pafs.AwsStandardS3RetryStrategy(max_attempts=10)
    return pafs.S3FileSystem(endpoint_override=endpoint, retry_strategy=retries, **arrow)


def lance_options(endpoint: str | None) -> dict[str, str]:
    """The same for Lance, as its object store names it."""
    said, options = _s3_settings(), dict[str, str]()
    if endpoint is not None:
        options |= {"aws_endpoint": endpoint, **({"allow_http": "true"} if endpoint.startswith("http://") else {})}
    options |= {"aws_region": str(said["region"])} if "region" in said else {}
    options |= {"aws_skip_signature": "true"} if said.get("anonymous") else {}
    options |= {"aws_request_payer": "true"} if said.get("requester_pays") else {}
    if "path_style" in said:
        options["aws_virtual_hosted_style_request"] = "false" if said["path_style"] else "true"
    return options


def of_fsspec(scheme: str, own: Mapping[str, Any] | None = None) -> pafs.FileSystem:
    """A scheme's files through fsspec. Raises ValueError, with the remedy, if no package that reads it is installed."""
    import fsspec
    import pyarrow.fs as pafs

    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise ValueError(f"{scheme}:// is not read: no package of fsspec knows it; copy the photos to a disk") from None
    except ImportError as error:
        remedy = f"pip install {_PACKAGES[scheme]}" if scheme in _PACKAGES else str(error)
        raise ValueError(f"{scheme}:// needs a package that is not installed: {remedy}") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(kind(**(settings() if own is None else own))))


def _s3_settings() -> dict[str, Any]:
    said: dict[str, Any] = {}
    for key, value in settings().items():
        if key not in S3_SETTINGS:
            raise ValueError(f"--storage {key}: S3 has no such setting; there are {', '.join(S3_SETTINGS)}")
        if key in ("endpoint", "region"):
            said[key] = value
        elif value in ("true", "false"):
            said[key] = value == "true"
        else:
            raise ValueError(f"--storage {key} is true or false, not {value!r}")
    return said
