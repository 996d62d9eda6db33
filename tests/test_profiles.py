"""Keys of S3 that a profile of ~/.aws tells in other ways than as keys."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from factory import profiles
from factory.profiles import arrow_keys

KEYS = {"Version": 1, "AccessKeyId": "id", "SecretAccessKey": "secret", "SessionToken": "t"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    profiles._credentials.cache_clear()
    return tmp_path / "config"


def test_a_program_and_keys_of_the_profile_in_use(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = config.with_name("told.json")
    told.write_text(json.dumps(KEYS))
    config.write_text(
        f"[profile asked]\ncredential_process = cat {told}\n[profile other]\nregion = eu-west-1\n"
        "[default]\naws_access_key_id = own\naws_secret_access_key = s\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "asked")
    assert arrow_keys() == {"access_key": "id", "secret_key": "secret", "session_token": "t"}
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert arrow_keys() == {}, "they are where Arrow looks itself"
    monkeypatch.delenv("AWS_PROFILE")
    assert arrow_keys() == {"access_key": "own", "secret_key": "s"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the environment")
    assert arrow_keys() == {}


def test_what_gives_no_keys_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("[profile asked]\ncredential_process = false\n")
    monkeypatch.setenv("AWS_PROFILE", "asked")
    with pytest.raises(OSError, match=r"the profile of ~/\.aws in use gives no keys: .*custom-process"):
        arrow_keys()
