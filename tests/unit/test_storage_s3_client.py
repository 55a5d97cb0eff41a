"""What a store says of time, as our S3 client reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from botocore.utils import parse_timestamp
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.storage.s3_client import parse_moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T10:17:04.123Z",
        "2026-11-21T10:17:04Z",
        "2026-11-21T10:17:04.123456+02:00",
        "Sat, 21 Nov 2026 10:17:04 GMT",
        "1795256224",
        1795256224,
        1795256224.5,
    ],
)
def test_a_moment_is_read_in_every_form_that_botocore_reads(text: str | float) -> None:
    moment = parse_moment(text)
    assert moment.tzinfo is not None
    assert moment == parse_timestamp(text)


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 2)))  # noqa: DTZ001
def test_a_moment_of_a_listing_is_in_utc(moment: datetime) -> None:
    text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert timedelta(0) <= moment - parse_moment(text) < timedelta(milliseconds=1)
    assert parse_moment(text).utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00:00Z"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"timestamp|Unknown"):
        parse_moment(text)
