"""What botocore reads of its data files: only what an S3 client uses of it.

It keeps all of it for as long as the process lives: the documentation of each operation and field,
examples, and where each of some three hundred other services is to be reached in each region,
every object of the JSON as an OrderedDict. That is 9 MiB of an agent's resident memory.
"""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from botocore.loaders import JSONFileLoader

_SERVICES: Final = frozenset({"s3", "sts", "sso", "portal.sso", "oidc", "signin"})
"""S3, and those that hand out credentials for it; botocore guesses the address of others."""


class LeanFiles(JSONFileLoader):
    """Reads a data file of botocore; takes the place of its loader's ``file_loader``."""

    def load_file(self, file_path: str) -> dict[str, Any] | None:
        """The content of the file of that name, which lacks its ending; None without such a file.

        Each ``documentation`` is empty, examples are left out, and of the endpoints all but ours.
        """
        data = _read(file_path)
        if data is None:
            return None
        name = Path(file_path).name
        if name.startswith("examples-"):
            return {}
        parsed: dict[str, Any] = json.loads(data, object_hook=_without_documentation)
        if name == "endpoints":
            for partition in parsed["partitions"]:
                known = partition["services"]
                partition["services"] = {at: known[at] for at in known if at in _SERVICES}
        return parsed


def _read(file_path: str) -> bytes | None:
    with suppress(FileNotFoundError):
        return Path(f"{file_path}.json").read_bytes()
    with suppress(FileNotFoundError):
        return gzip.decompress(Path(f"{file_path}.json.gz").read_bytes())
    return None


def _without_documentation(found: dict[str, Any]) -> dict[str, Any]:
    if isinstance(found.get("documentation"), str):
        found["documentation"] = ""
    return found
