"""Keys of S3 as a profile of ~/.aws tells them (a role to assume, a program to ask, a login), of which Arrow knows less
than AWS's own tools do; Lance knows them by itself."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Final

# What a profile has that says where its keys come from
_TELL: Final = frozenset(
    "role_arn credential_process sso_session sso_start_url login_session web_identity_token_file "
    "aws_access_key_id".split()
)
_FILES: Final = ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")


def arrow_keys(profile: str | None = None) -> dict[str, str]:
    """The keys of a profile, by default of that in use, as Arrow takes them, renewed where they end; empty if, by
    default, the environment has keys, or no profile tells any: Arrow then looks where else they are (the machine's or
    the container's role).

    Raises OSError, with the cause, if they cannot be had.
    """
    if profile is None and os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        credentials = _credentials(profile, *map(os.environ.get, _FILES))
        if credentials is None:
            return {}
        keys = credentials.get_frozen_credentials()
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"the profile {profile or 'of ~/.aws in use'} gives no keys: {error}") from None
    told = {"access_key": keys.access_key, "secret_key": keys.secret_key, "session_token": keys.token}
    return {name: text for name, text in told.items() if text}


@cache  # which keeps the keys until they end
def _credentials(named: str | None, in_use: str | None, *_files: str | None) -> Any:
    from botocore.session import Session

    session = Session(profile=named)
    own = session.full_config.get("profiles", {}).get(named or in_use or "default", {})
    return session.get_credentials() if named or _TELL & own.keys() else None


def region_of(profile: str) -> str | None:
    """What a profile says. Raises OSError if there is no such profile."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        region: str | None = Session(profile=profile).get_scoped_config().get("region")
    except BotoCoreError as error:
        raise OSError(str(error)) from None
    return region
