"""What botocore reads of its data files: only what an S3 client uses of it.

It keeps all of it for as long as the process lives: a hundred operations with the documentation of
each field, examples, and where each of some three hundred other services is to be reached in each
region, every object of the JSON as an OrderedDict. What is left out here is never decoded either:
memory that was in use for a moment stays with the process.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from botocore.loaders import JSONFileLoader

_SERVICES: Final = frozenset({"s3", "sts", "sso", "portal.sso", "oidc", "signin"})
"""S3, and those that hand out credentials for it; botocore guesses the address of others."""
_OPERATIONS: Final = frozenset(
    {
        "AbortMultipartUpload",
        "CompleteMultipartUpload",
        "CreateMultipartUpload",
        "DeleteObject",
        "GetObject",
        "HeadObject",
        "ListObjectsV2",
        "PutObject",
        "UploadPart",
        "CreateSession",  # botocore itself, for buckets of S3 Express
        "HeadBucket",  # botocore itself, where a bucket lies in another region
    }
)
"""Of S3: what `walkeeper.storage.s3_bucket` calls, and what the client needs for that."""


_LISTED: Final = frozenset({"Key", "LastModified", "Size", "StorageClass"})
"""Of each object in a listing; what else a store says of it is not even parsed."""


class LeanFiles(JSONFileLoader):
    """Reads a data file of botocore; takes the place of its loader's ``file_loader``."""

    def load_file(self, file_path: str) -> dict[str, Any] | None:
        """The content of the file of that name, which lacks its ending; None without such a file.

        Each ``documentation`` is empty, examples are left out, and of the endpoints, of what S3 can
        do and of what it says of a listed object all but what is ours.
        """
        path = Path(file_path)
        data = _read(path)
        if data is None:
            return None
        if path.name.startswith("examples-"):
            return {}
        if path.name == "endpoints":
            return _our_endpoints(data)
        if path.name == "service-2" and path.parts[-3] == "s3":
            return _our_operations(data)
        whole: dict[str, Any] = _undocumented(msgspec.json.decode(data, type=dict[str, Any]))
        return whole


def _read(path: Path) -> bytes | None:
    with suppress(FileNotFoundError):
        return path.with_name(f"{path.name}.json").read_bytes()
    with suppress(FileNotFoundError):
        return gzip.decompress(path.with_name(f"{path.name}.json.gz").read_bytes())
    return None


def _our_endpoints(data: bytes) -> dict[str, Any]:
    found = _parts_of(data)
    partitions = msgspec.json.decode(found.pop("partitions"), type=list[dict[str, msgspec.Raw]])
    lean = []
    for partition in partitions:
        services = _parts_of(partition.pop("services"))
        known = {name: _decoded(services[name]) for name in services if name in _SERVICES}
        lean.append({**_decoded_parts(partition), "services": known})
    return {**_decoded_parts(found), "partitions": lean}


def _our_operations(data: bytes) -> dict[str, Any]:
    found = _parts_of(data)
    operations, shapes = _parts_of(found.pop("operations")), _parts_of(found.pop("shapes"))
    ours = {name: _decoded(operations[name]) for name in operations if name in _OPERATIONS}
    used: dict[str, Any] = {}
    wanted = list(_named_shapes(ours.values()))
    while wanted:
        name = wanted.pop()
        if name not in used:
            used[name] = _decoded(shapes[name])
            if name == "Object":
                members = used[name]["members"]
                used[name]["members"] = {one: members[one] for one in members if one in _LISTED}
            wanted += _named_shapes([used[name]])
    return {**_decoded_parts(found), "operations": ours, "shapes": used}


def _named_shapes(values: Iterable[Any]) -> Iterable[str]:
    """The name in each ``{"shape": name}`` within."""
    for value in values:
        if isinstance(value, dict):
            if isinstance(value.get("shape"), str):
                yield value["shape"]
            yield from _named_shapes(value.values())
        elif isinstance(value, list):
            yield from _named_shapes(value)


def _parts_of(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(data, type=dict[str, msgspec.Raw])


def _decoded_parts(parts: dict[str, msgspec.Raw]) -> dict[str, Any]:
    return {name: _decoded(part) for name, part in parts.items()}


def _decoded(part: msgspec.Raw) -> Any:
    return _undocumented(msgspec.json.decode(part))


def _undocumented(value: Any) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get("documentation"), str):
            value["documentation"] = ""
        for inner in value.values():
            _undocumented(inner)
    elif isinstance(value, list):
        for inner in value:
            _undocumented(inner)
    return value
