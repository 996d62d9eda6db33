"""Whether what a command needs on a network is there, told in seconds: the clients of stores try for minutes."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Collection, Iterable
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from factory.files import s3_endpoint
from factory.storage import AZURE, STORAGE, of_azure, s3_keys, scheme_of, settings

_LIMIT_S: Final = 6.0  # to connect, and for the first byte of an answer
_NO_KEYS: Final = (
    "gs:// has no credentials here: set GOOGLE_APPLICATION_CREDENTIALS to a key's file, run `gcloud auth "
    "application-default login`, or give --storage anonymous=true for public buckets"
)
_RENEW: Final = "the session is over: log in again (`aws sso login`), or renew AWS_SESSION_TOKEN"
_REFUSALS: Final = {  # S3's codes, and botocore's errors
    "InvalidAccessKeyId": "AWS_ACCESS_KEY_ID, or the profile in use, is not known there; correct it",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is not that of the key, or is cut; correct it",
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "SSOTokenLoadError"), _RENEW),
    **dict.fromkeys(("UnauthorizedSSOTokenError", "TokenRetrievalError", "RequestExpired"), _RENEW),
    "InvalidToken": "AWS_SESSION_TOKEN is of another key; unset it, or renew it",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "ProfileNotFound": "there is no such profile in ~/.aws/config; correct AWS_PROFILE, or --photos-storage profile",
    "PartialCredentialsError": "one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is missing; set both",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION, or --storage region",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION, or --storage region",
}
_FAULTS: Final = {  # botocore's errors of what is no answer of S3
    "SSLError": "its certificate is not one that is trusted here: set AWS_CA_BUNDLE and SSL_CERT_FILE to the file of "
    "whoever signed it",
    **dict.fromkeys(
        ("ResponseParserError", "500"),
        "what answers there is no S3 server, or a proxy or a login page "
        "stands before it: correct AWS_ENDPOINT_URL or --storage endpoint",
    ),
}
_REFUSALS_OF_TABLES: Final = {  # of photos a key that may be read but not listed will do, or none at all
    "NoCredentialsError": "there are none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "AccessDenied": "let them list, read and write there, or use others",
    "403": "let them list, read and write there, or use others",
}
_ANONYMOUS: Final = (
    "anonymous=true comes without keys, which tables need: leave it out, and for photos that need none give "
    "--photos-storage anonymous=true"
)
_TWO_STORES: Final = (
    "--storage, keys and AWS_ENDPOINT_URL count for photos and tables alike: for photos in another store give "
    "--photos-storage (endpoint=URL, anonymous=true, or profile=NAME of ~/.aws)"
)


def asked(by: str = STORAGE) -> str:
    """At which S3 server is looked, and as whom: what to tell where something is not there, or refused."""
    said, profile = settings(by), os.environ.get("AWS_PROFILE")
    key = os.environ.get("AWS_ACCESS_KEY_ID", "")
    if said.get("anonymous") == "true":
        whom = "without keys (anonymous=true)"
    elif named := said.get("profile"):
        whom = f"as the profile {named}"
    elif key:
        whom = f"with the key {key[:8]}{'...' * (len(key) > 8)} of AWS_ACCESS_KEY_ID"
    else:
        whom = f"as the profile {profile} of AWS_PROFILE" if profile else "with the keys of this machine, if it has any"
    return f"at {s3_endpoint(by) or 'AWS'}, {whom}"


def check_stores(uris: Iterable[str], tables: Collection[str] = (), by: str = STORAGE) -> None:
    """Raises OSError, with the remedy and within 20 s, if a store that these uris are on does not answer, or takes no
    credentials that are here: else a root would seem empty, or an error in many lines come late. Of Azure it is asked
    whether its name is known. `tables` are those uris where keys must be listed and there is no going without keys,
    `by` is the variable with the settings.

    Raises ValueError for an endpoint that is no URL.
    """
    places = [uri for uri in uris if uri.partition("://")[2].strip("/")]  # without a bucket it is none
    schemes = {scheme_of(uri) for uri in places}
    if "s3" in schemes:
        endpoint = s3_endpoint(by)
        _check_s3(endpoint)
        for uri in dict.fromkeys(uri for uri in places if scheme_of(uri) == "s3"):
            _check_bucket(endpoint, uri, by, has_tables=uri in tables)
    for uri in (uri for uri in places if scheme_of(uri) in ("http", "https")):
        if fault := fault_at(uri):
            raise OSError(f"{urlsplit(uri).netloc} does not answer ({fault}): check the address, and the network")
    if "gs" in schemes:
        _check_gs(by)
    own = settings(by).get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    told = [of_azure(uri)[0] if scheme_of(uri) in AZURE else "" for uri in places if scheme_of(uri) in ("az", *AZURE)]
    for account in dict.fromkeys(account or own for account in told):
        if account:
            _check_name(f"{account}.blob.core.windows.net", "correct the account's name")


def fault_at(url: str) -> str:
    """Why nobody answers at an http:// or https:// URL; empty if somebody does, whatever is said, or if a proxy of the
    environment stands between. Raises ValueError if it is no such URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url} is no URL: write http://HOST:PORT or https://HOST")
    if _by_proxy(parts.scheme, parts.hostname):
        return ""
    port = parts.port  # ValueError if it is none
    unchecked = ssl.create_default_context()  # certificates are for the client that comes after
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    connection = (
        HTTPConnection(parts.hostname, port, timeout=_LIMIT_S)
        if parts.scheme == "http"
        else HTTPSConnection(parts.hostname, port, timeout=_LIMIT_S, context=unchecked)
    )
    with closing(connection):
        try:
            connection.request("HEAD", "/")
            connection.getresponse()
        except TimeoutError:
            return f"no answer within {_LIMIT_S:g} s"
        except (OSError, HTTPException, UnicodeError) as error:
            return str(error) or type(error).__name__
    return ""


def _by_proxy(scheme: str, host: str) -> bool:
    return scheme in getproxies() and not proxy_bypass(host)


def _check_s3(endpoint: str | None) -> None:
    if endpoint is None:
        _check_name("s3.amazonaws.com", "set AWS_ENDPOINT_URL for a server of your own")
        return
    try:
        fault = fault_at(endpoint)
    except ValueError as error:
        raise ValueError(f"the S3 server is to be a URL: {error}") from None
    if fault:
        raise OSError(
            f"the S3 server {endpoint} does not answer ({fault}): start it, check the network, or correct "
            "AWS_ENDPOINT_URL or --storage endpoint"
        )


def _check_bucket(endpoint: str | None, uri: str, by: str, *, has_tables: bool) -> None:
    from botocore.exceptions import ClientError  # imported where a store is used at all

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if endpoint and urlsplit(endpoint).path.rstrip("/").rpartition("/")[2] == bucket:
        server = endpoint.rstrip("/").removesuffix(f"/{bucket}")
        raise ValueError(f"the S3 server is given with the bucket behind it, {endpoint}: write {server} alone")
    below = f"{prefix.rstrip('/')}/" if prefix else ""
    try:
        next(s3_keys(endpoint, bucket, below, at_once=1, limit_s=_LIMIT_S, by=by), None)
    except OSError as error:
        cause = error.__cause__
        code = (
            str(cause.response.get("Error", {}).get("Code")) if isinstance(cause, ClientError) else type(cause).__name__
        )
        if code in _FAULTS:
            raise OSError(f"s3://{bucket} cannot be reached ({code}): {_FAULTS[code]}") from None
        if code == "NoSuchBucket":
            make = "create it there, correct its name" if has_tables else "correct its name"
            raise OSError(
                f"there is no bucket s3://{bucket} {asked(by)}: {make}, or look elsewhere; {_TWO_STORES}"
            ) from None
        remedy = _REFUSALS.get(code) or (_REFUSALS_OF_TABLES.get(code) if has_tables else None)
        if remedy and has_tables and settings(by).get("anonymous") == "true":
            remedy = _ANONYMOUS
        elif remedy and code in _REFUSALS_OF_TABLES:
            remedy += f"; {_TWO_STORES}"
        if remedy:
            raise OSError(f"s3://{bucket}, asked {asked(by)}, refuses it ({code}): {remedy}") from None


def _check_gs(by: str) -> None:
    if settings(by).get("anonymous") == "true" or os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT"):
        return
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        if not Path(named).is_file():
            raise OSError(f"GOOGLE_APPLICATION_CREDENTIALS={named}: there is no such file; correct it")
        return
    config = Path(os.environ.get("CLOUDSDK_CONFIG") or "~/.config/gcloud").expanduser()
    if (config / "application_default_credentials.json").is_file():
        return
    if fault_at(f"http://{os.environ.get('GCE_METADATA_HOST', 'metadata.google.internal')}"):  # on Google's machines
        raise OSError(_NO_KEYS)


def _check_name(host: str, remedy: str) -> None:
    """Raises OSError if the name is not known here: no network, or no such account."""
    if _by_proxy("https", host):
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise OSError(f"{host} is not found ({error.strerror}): check the network, or {remedy}") from None
