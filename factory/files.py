"""Where files are: a local path, or s3://. Light to import: it knows no tables."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.fs as pafs


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Arrow's file system and the path in it, for a local path or an s3:// uri (the usual AWS_* variables)."""
    if uri.startswith("s3://"):
        retries = pafs.AwsStandardS3RetryStrategy(max_attempts=10)
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        return pafs.S3FileSystem(endpoint_override=endpoint, retry_strategy=retries), uri.removeprefix("s3://")
    return pafs.LocalFileSystem(), str(Path(uri.removeprefix("file://")).expanduser().absolute())
