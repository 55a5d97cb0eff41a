"""Nothing of asyncpg's passes the adapter's border."""

import inspect

import asyncpg
import pytest

from walkeeper.errors import BackupError, PostgresError, PostgresUnavailable
from walkeeper.postgres.errors import map_errors

FOREIGN = [
    error
    for error in vars(asyncpg.exceptions).values()
    if inspect.isclass(error)
    and issubclass(error, Exception)
    and not issubclass(error, Warning)
    and error is not asyncpg.exceptions.PostgresLogMessage
]


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: error.__name__)
def test_every_exception_of_asyncpg_is_translated(error):
    with pytest.raises(PostgresError), map_errors("do something"):
        raise error("reason")


def test_the_list_of_exceptions_is_not_empty():
    assert len(FOREIGN) > 200


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("refused"),
        FileNotFoundError("no socket"),
        TimeoutError(),
        asyncpg.ConnectionDoesNotExistError("closed in the middle"),
        asyncpg.CannotConnectNowError("starting up"),
        asyncpg.AdminShutdownError("terminated"),
        asyncpg.CrashShutdownError("crashed"),
        asyncpg.IdleSessionTimeoutError("idle"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.InterfaceError("connection is closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_pass_is_retryable(error):
    with pytest.raises(PostgresUnavailable) as caught, map_errors("connect"):
        raise error
    assert caught.value.retryable


def test_a_missing_right_names_what_to_grant():
    with (
        pytest.raises(PostgresError) as caught,
        map_errors("start a backup", rights_hint="GRANT it"),
    ):
        raise asyncpg.InsufficientPrivilegeError("permission denied")
    assert caught.value.hint == "GRANT it"
    assert not caught.value.retryable


def test_our_own_errors_pass_unchanged():
    error = BackupError("void")
    with pytest.raises(BackupError) as caught, map_errors("do something"):
        raise error
    assert caught.value is error


async def test_a_password_that_breaks_the_dsn_is_not_repeated():
    with pytest.raises(PostgresError) as caught, map_errors("connect"):
        await asyncpg.connect("postgresql://user:s3/cret@localhost/x")
    assert "cret" not in str(caught.value)
    assert "s3" not in str(caught.value)
    assert caught.value.__suppress_context__
