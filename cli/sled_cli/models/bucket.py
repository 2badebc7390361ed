"""Where the objects of an S3 bucket are, as a signed address. Sends nothing itself.

Settings are those that every S3 client reads: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, or the role of the pod (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONTAINER_CREDENTIALS_*);
AWS_REGION, and AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL for another S3 than Amazon's. Without
credentials the bucket must be public.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Final
from urllib.parse import quote, urlsplit

from sled_cli.models.errors import DownloadFailed
from sled_cli.models.source import BucketSource
from sled_cli.models.transfer import Remote

VALID_FOR: Final = timedelta(hours=1)
"""How long a signature opens the object; a transfer that has begun goes on."""

_WORDS: Final = {
    401: "the object needs credentials (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
    403: "the credentials do not open this object, or there are none",
    404: "there is no such bucket or object",
}
_ROLE: Final = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def remote(source: BucketSource) -> Remote:
    """The object of a source.

    Raises:
        DownloadFailed: the role's credentials could not be had, or a setting is no address.
    """
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = urlsplit(given or f"https://s3.{region}.amazonaws.com")
    if endpoint.scheme not in ("http", "https") or not endpoint.netloc:
        raise DownloadFailed(f"{source}: AWS_ENDPOINT_URL is not an address: {given}")
    return Remote(
        str(source), _address(source, endpoint.scheme, endpoint.netloc, region), {}, _WORDS
    )


def _address(source: BucketSource, scheme: str, host: str, region: str) -> str:
    own = bool(os.environ.get("AWS_ACCESS_KEY_ID"))
    if not own and not any(os.environ.get(name) for name in _ROLE):
        return f"{scheme}://{host}/{source.bucket}/{quote(source.key)}"
    # Loaded here: only those who use a bucket need it.
    from minio import Minio
    from minio.credentials.providers import EnvAWSProvider, IamAwsProvider

    provider = EnvAWSProvider() if own else IamAwsProvider()
    try:
        client = Minio(host, credentials=provider, secure=scheme == "https", region=region)
        return str(client.presigned_get_object(source.bucket, source.key, expires=VALID_FOR))
    except Exception as error:  # the library raises its own, urllib3's and ValueError
        raise DownloadFailed(f"{source}: no signature could be made: {error}") from error
