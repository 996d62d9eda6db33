"""What the operator asks of a root: ROOT/settings.toml, written by hand. Tenants' roots have their operator's."""

from __future__ import annotations

import tomllib
from typing import Final

import pyarrow.fs as pafs
from pydantic import Field, ValidationError

from factory.config import Config
from factory.files import filesystem, operator_root

FILE: Final = "settings.toml"


class Policy(Config):
    """The fields of settings.toml."""

    require_consent: bool = False  # a photo without a consent that is good now is a reject `no_consent`
    audit_prompts: bool = False  # the audit keeps what was asked for, and not only who is in it
    uri_prefixes: list[str] = Field(default=[])  # where a tenant's Parquet may say that photos are; empty: beside it


def read_policy(root: str) -> Policy:
    """The operator's settings for a root, or the defaults. Raises ValueError, with the remedy."""
    uri = f"{operator_root(root)}/{FILE}"
    files, path = filesystem(uri)
    if files.get_file_info(path).type == pafs.FileType.NotFound:
        return Policy()
    with files.open_input_stream(path) as stream:
        text = stream.read()
    try:
        return Policy.model_validate(tomllib.loads(text.decode("utf-8-sig")))
    except ValueError as error:  # pydantic's too
        faults = error.errors() if isinstance(error, ValidationError) else []
        what = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults) or str(error)
        fields = ", ".join(Policy.model_fields)
        raise ValueError(f"{uri} cannot be used: {what}; its fields are {fields}") from None
