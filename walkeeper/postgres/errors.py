"""Where the exceptions of asyncpg and of the operating system become walkeeper's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from walkeeper.errors import PostgresError, PostgresUnavailable, WalkeeperError
from walkeeper.log import redact_text

# The server is there and will be again, or the session is gone: trying again makes sense.
_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,  # class 08, the lost connection included
    asyncpg.CannotConnectNowError,  # starting up, shutting down, in recovery
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    TimeoutError,
    OSError,
)


@contextmanager
def map_errors(doing: str, *, rights_hint: str | None = None) -> Iterator[None]:
    """Translate what asyncpg and sockets raise inside the block.

    ``doing`` opens the message ("cannot <doing>: ..."). ``rights_hint`` says what to grant when the
    role is not allowed to. Raises PostgresUnavailable for what may pass, PostgresError for the
    rest. Nothing is retried.
    """
    try:
        yield
    except WalkeeperError:
        raise
    except asyncpg.InsufficientPrivilegeError as error:
        raise PostgresError(f"cannot {doing}: {_describe(error)}", hint=rights_hint) from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:  # wrong password included
        raise PostgresError(
            f"cannot {doing}: {_describe(error)}",
            hint="check the role, its password and pg_hba.conf",
        ) from error
    except _UNAVAILABLE as error:
        raise PostgresUnavailable(f"cannot {doing}: {_describe(error)}") from error
    except asyncpg.PostgresError as error:
        raise PostgresError(f"cannot {doing}: {_describe(error)}") from error
    except ValueError as error:
        # What cannot be read of a dsn may be a part of its password: it is not repeated. asyncpg's
        # DataError is one too, and quotes a query's argument.
        raise PostgresError(
            f"cannot {doing}: {type(error).__name__} in the client", hint="check the dsn"
        ) from None
    except asyncpg.InterfaceError as error:  # the connection was closed under us
        raise PostgresUnavailable(f"cannot {doing}: {_describe(error)}") from error
    except asyncpg.InternalClientError as error:
        raise PostgresError(f"cannot {doing}: {_describe(error)}") from error


def _describe(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return redact_text(str(error)) or type(error).__name__
