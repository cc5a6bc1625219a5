"""The S3 server of the tests itself: its faults happen, and what is cut is not stored."""

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.object_store import Fault, ObjectStore

KEY = "some/where/trials/00001/checkpoint + 1"
OLD = b"the old content"
LARGE = 12 * 2**20  # bytes; more than lie in the buffers of a connection

_ONCE = {"retries": {"total_max_attempts": 1}, "connect_timeout": 1, "read_timeout": 1}


@pytest.fixture
def client(object_store: ObjectStore) -> Iterator[Any]:
    """Of somebody who does not repeat a request."""
    client = object_store.client(**_ONCE)
    client.put_object(Bucket=object_store.bucket, Key=KEY, Body=OLD)
    yield client
    client.close()


def test_what_is_put_is_there_whole(object_store: ObjectStore, client: Any) -> None:
    content = random.Random(0).randbytes(LARGE)
    began = time.monotonic()
    for size in (0, 1, LARGE):
        client.put_object(Bucket=object_store.bucket, Key=KEY, Body=content[:size])
        assert object_store.contents() == {KEY: content[:size]}
        assert client.head_object(Bucket=object_store.bucket, Key=KEY)["ContentLength"] == size
        got = client.get_object(Bucket=object_store.bucket, Key=KEY)["Body"].read()
        assert got == content[:size]
    assert object_store.happened == {("PUT", "pass"): 4, ("HEAD", "pass"): 3, ("GET", "pass"): 3}
    # A client that asks whether to go on waits for a second where nobody tells it.
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("size", [2, 1000, LARGE])
def test_an_upload_that_is_cut_leaves_what_was_there(
    object_store: ObjectStore, client: Any, size: int
) -> None:
    from botocore.exceptions import HTTPClientError

    with object_store.failing(Fault("cut request", methods=["PUT"])):
        with pytest.raises(HTTPClientError):
            client.put_object(Bucket=object_store.bucket, Key=KEY, Body=bytes(size))
        with pytest.raises(HTTPClientError):
            client.put_object(Bucket=object_store.bucket, Key="another", Body=bytes(size))
    assert object_store.contents() == {KEY: OLD}
    assert object_store.happened["PUT", "cut request"] == 2


def test_a_part_that_is_cut_is_no_part(object_store: ObjectStore, client: Any) -> None:
    from botocore.exceptions import HTTPClientError

    where = {"Bucket": object_store.bucket, "Key": KEY}
    upload = where | {"UploadId": client.create_multipart_upload(**where)["UploadId"]}
    with (
        object_store.failing(Fault("cut request", methods=["PUT"])),
        pytest.raises(HTTPClientError),
    ):
        client.upload_part(**upload, PartNumber=1, Body=bytes(LARGE))
    assert "Parts" not in client.list_parts(**upload)
    assert object_store.half_uploads() == [KEY]
    client.abort_multipart_upload(**upload)
    assert object_store.half_uploads() == []
    assert object_store.contents() == {KEY: OLD}


def test_an_answer_that_is_cut_was_acted_on(object_store: ObjectStore, client: Any) -> None:
    from botocore.exceptions import HTTPClientError, ResponseStreamingError

    with object_store.failing(Fault("cut answer")):
        with pytest.raises(ResponseStreamingError):
            client.get_object(Bucket=object_store.bucket, Key=KEY)["Body"].read()
        with pytest.raises(HTTPClientError):
            client.put_object(Bucket=object_store.bucket, Key=KEY, Body=b"new")
        assert object_store.contents() == {KEY: b"new"}
        with pytest.raises(HTTPClientError):
            client.delete_object(Bucket=object_store.bucket, Key=KEY)
        assert object_store.contents() == {}


def test_errors_are_those_of_s3(object_store: ObjectStore, client: Any) -> None:
    from botocore.exceptions import ClientError

    for fate, status, code in (("error", 500, "InternalError"), ("busy", 503, "SlowDown")):
        with (
            object_store.failing(Fault(fate)),  # type: ignore[arg-type]
            pytest.raises(ClientError, match=code) as failed,
        ):
            client.get_object(Bucket=object_store.bucket, Key=KEY)
        assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_who_hangs_is_not_waited_for(object_store: ObjectStore, client: Any) -> None:
    from botocore.exceptions import ReadTimeoutError

    with object_store.failing(Fault("hang")), pytest.raises(ReadTimeoutError):
        client.get_object(Bucket=object_store.bucket, Key=KEY)
    assert client.get_object(Bucket=object_store.bucket, Key=KEY)["Body"].read() == OLD


def test_away_is_away_until_it_is_back(object_store: ObjectStore, client: Any) -> None:
    from botocore.exceptions import EndpointConnectionError

    with object_store.away(), pytest.raises(EndpointConnectionError):
        client.get_object(Bucket=object_store.bucket, Key=KEY)
    assert client.get_object(Bucket=object_store.bucket, Key=KEY)["Body"].read() == OLD


def test_faults_strike_whom_they_are_meant_for(object_store: ObjectStore, client: Any) -> None:
    from botocore.exceptions import ClientError

    def strikes(method: str, key: str = KEY) -> bool:
        try:
            getattr(client, f"{method}_object")(Bucket=object_store.bucket, Key=key)
        except ClientError:
            return True
        return False

    with object_store.failing(Fault("error", next=2, methods=["GET", "PUT"], keys=r"point \+ 1$")):
        assert [strikes("head"), strikes("put", "another")] == [False, False]
        assert [strikes("get"), strikes("put"), strikes("get")] == [True, True, False]
    with object_store.failing(Fault("error", share=0.5)):
        struck = [strikes("get") for _ in range(60)]
    assert any(struck)
    assert not all(struck)
    assert object_store.happened["GET", "error"] == 1 + sum(struck)
