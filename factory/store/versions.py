"""What a store keeps of files that were removed: an S3 bucket with versions keeps all of them."""

from __future__ import annotations

from typing import Any, Final

from factory.files import s3_endpoint
from factory.storage import s3_client, scheme_of

_ENOUGH: Final = 1000  # older versions of a page: that there are any is what counts


def older_versions(root: str) -> str:
    """That older versions of a root's files are kept, and the remedy, as a sentence; empty where none are, where a rule
    of the bucket's life cycle removes them, or where it may not be asked (the permission is s3:GetBucketVersioning)."""
    if scheme_of(root) != "s3":
        return ""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    where = {"Bucket": bucket, "Prefix": f"{prefix.rstrip('/')}/" if prefix else ""}
    try:
        client = s3_client(s3_endpoint())
        if client.get_bucket_versioning(Bucket=bucket).get("Status") not in ("Enabled", "Suspended"):
            return ""
        if _expire(client, bucket, where["Prefix"]):
            return ""
        pages = client.get_paginator("list_object_versions").paginate(**where, PaginationConfig={"PageSize": _ENOUGH})
        if not any(not version["IsLatest"] for page in pages for version in page.get("Versions", ())):
            return ""
    except (BotoCoreError, ClientError):
        return ""
    return (
        f"the bucket {bucket} keeps older versions of what was removed: let a rule of its life cycle remove them "
        "(NoncurrentVersionExpiration), or delete them; until then they can be brought back"
    )


def _expire(client: Any, bucket: str, prefix: str) -> bool:
    """Whether a rule removes older versions of everything below a prefix after some days."""
    from botocore.exceptions import ClientError

    try:
        rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError:  # there is none, or it may not be asked
        return False
    return any(
        rule["Status"] == "Enabled"
        and "NoncurrentDays" in rule.get("NoncurrentVersionExpiration", {})
        and "NewerNoncurrentVersions" not in rule["NoncurrentVersionExpiration"]  # keeps some for good
        and set(rule.get("Filter", {})) <= {"Prefix"}
        and prefix.startswith(rule.get("Filter", rule).get("Prefix", ""))
        for rule in rules
    )
