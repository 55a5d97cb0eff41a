"""botocore's data files as an S3 client needs them: all of S3, nothing to read for people."""

from __future__ import annotations

import json
from pathlib import Path

from botocore.loaders import Loader
from botocore.session import get_session

from walkeeper.storage.s3_data import LeanFiles


def test_operations_and_shapes_are_all_there_without_their_documentation() -> None:
    whole = Loader().load_service_model("s3", "service-2")
    lean = Loader(file_loader=LeanFiles()).load_service_model("s3", "service-2")
    assert lean["operations"].keys() == whole["operations"].keys()
    assert lean["shapes"]["PutObjectRequest"]["members"].keys() == (
        whole["shapes"]["PutObjectRequest"]["members"].keys()
    )
    assert len(json.dumps(lean)) < len(json.dumps(whole)) / 2


def test_endpoints_are_those_of_s3_in_every_partition_and_region() -> None:
    whole = Loader().load_data("endpoints")
    lean = Loader(file_loader=LeanFiles()).load_data("endpoints")
    for ours, theirs in zip(lean["partitions"], whole["partitions"], strict=True):
        assert ours["regions"] == theirs["regions"]
        assert ours["services"]["s3"] == theirs["services"]["s3"]
        assert len(ours["services"]) < 10


def test_a_client_sends_its_requests_where_one_with_all_data_does() -> None:
    addresses = []
    for lean in (False, True):
        session = get_session()
        if lean:
            session.get_component("data_loader").file_loader = LeanFiles()
        client = session.create_client(
            "s3", region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        url: str = client.generate_presigned_url(
            "get_object", Params={"Bucket": "bucket", "Key": "a/b"}
        )
        addresses.append(url.partition("?")[0])
    assert addresses[0] == addresses[1]


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert LeanFiles().load_file(str(tmp_path / "nothing")) is None
