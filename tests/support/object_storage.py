"""An S3 service on loopback (moto), for tests of DVC remotes in a bucket."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "atlas"
REMOTE = f"s3://{BUCKET}/store"
LOGIN = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def serving_bucket() -> Iterator[tuple[str, Any]]:
    """Serve the empty bucket `BUCKET`, for those with `LOGIN` in their environment; skips without boto3 and moto.

    Yields:
        The URL of the service, and boto3's bucket.
    """
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        bucket = boto3.resource("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        yield endpoint, bucket
        bucket.objects.delete()  # all servers of a process serve the same buckets
        bucket.delete()
    finally:
        server.stop()
