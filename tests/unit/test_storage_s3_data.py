"""botocore's data files as our S3 client needs them: what it calls, nothing to read for people."""

from __future__ import annotations

import json
import re
from pathlib import Path

from botocore.loaders import Loader
from botocore.session import get_session

from walkeeper.storage import s3_bucket
from walkeeper.storage.s3_data import LeanFiles


def test_our_operations_are_there_with_all_their_shapes_and_nothing_else() -> None:
    whole = Loader().load_service_model("s3", "service-2")
    lean = Loader(file_loader=LeanFiles()).load_service_model("s3", "service-2")
    assert lean["metadata"] == whole["metadata"]
    for name, ours in lean["operations"].items():
        assert _without_documentation(ours) == _without_documentation(whole["operations"][name])
    listed = lean["shapes"]["Object"]["members"]
    assert listed.keys() == {"Key", "LastModified", "Size", "StorageClass"}
    every = whole["shapes"]["Object"]["members"]
    whole["shapes"]["Object"]["members"] = {name: every[name] for name in listed}
    for name, ours in lean["shapes"].items():
        assert _without_documentation(ours) == _without_documentation(whole["shapes"][name])
    text = json.dumps([lean["operations"], lean["shapes"]])
    assert set(re.findall(r'"shape": "(\w+)"', text)) == lean["shapes"].keys()
    assert len(json.dumps(lean)) < len(json.dumps(whole)) / 5


def test_a_client_can_do_what_a_repository_asks_for() -> None:
    session = get_session()
    session.get_component("data_loader").file_loader = LeanFiles()
    client = session.create_client("s3", aws_access_key_id="a", aws_secret_access_key="b")
    source = Path(s3_bucket.__file__).read_text()
    called = set(re.findall(r"client\.(\w+)\(", source))
    assert "put_object" in called
    assert called <= client.meta.method_to_api_mapping.keys()
    # What botocore itself asks, of another region and of S3 Express.
    assert {"head_bucket", "create_session"} <= client.meta.method_to_api_mapping.keys()


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


def _without_documentation(value: object) -> object:
    if isinstance(value, dict):
        return {
            name: _without_documentation(inner)
            for name, inner in value.items()
            if not (name == "documentation" and isinstance(inner, str))
        }
    if isinstance(value, list):
        return [_without_documentation(inner) for inner in value]
    return value
