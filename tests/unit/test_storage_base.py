"""The rules for names."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core import layout
from walkeeper.storage.base import check_folder, check_name, is_valid_name

components = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=20)


@given(st.lists(components, min_size=1, max_size=6))
def test_a_name_is_valid_when_no_component_begins_with_a_dot(parts: list[str]) -> None:
    name = "/".join(parts)
    assert is_valid_name(name) == (not any(part.startswith(".") for part in parts))


@given(st.text(max_size=50))
def test_a_valid_name_stays_below_its_root(text: str) -> None:
    if is_valid_name(text):
        assert not text.startswith("/")
        assert not {"", ".", ".."} & set(text.split("/"))
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text


def test_the_names_of_the_layout_are_valid() -> None:
    assert is_valid_name(layout.ARCHIVE_RECORD)
    assert is_valid_name(layout.format_marker(2))


def test_a_name_with_a_newline_at_its_end_is_refused() -> None:
    with pytest.raises(ValueError, match="not the name"):
        check_name("one\n")


def test_a_folder_ends_in_a_slash_or_is_the_root() -> None:
    assert check_folder("") == ""
    assert check_folder("a/b/") == "a/b/"
    for wrong in ("a", "/", "a//", "../", "a/../", "/a/"):
        with pytest.raises(ValueError, match="not a folder"):
            check_folder(wrong)
