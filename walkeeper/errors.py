"""The exception tree of walkeeper, with the exit code of each class.

::

    WalkeeperError                      1
      UsageError                        2
      ConfigError                      40
      StorageError                     20   (could not tell; never means "not found")
        StorageUnavailable             20   retryable: refused, timed out, 5xx, throttled, cut short
        StorageDenied                  22   credentials or policy
        StorageFull                    20   quota, no space
        ObjectNotFound                 13   the store answered: there is no such object
        ObjectExists                    1   a create-only write met an existing name
        ObjectFrozen                   20   in a cold storage class, must be thawed first
      PostgresError                    21
        PostgresUnavailable            21   retryable
        WrongServer                    15   the dsn leads to another server than the files
        WalRefused                      1   a file that may not enter the archive
      RepositoryError                   1
        NotInitialised                 10   no archive in the repository
        AmbiguousArchive                2   several archives and none named
        ForeignCluster                 15
        FormatTooNew                   16
        Locked                         11
        NoSuchBackup                   13
        NoSuchSegment                  13
      KeyringError                     12
        WrongKey                       12
        KeyUnavailable                 12
      IntegrityError                   30   damaged, unsigned, swapped, forged
        DifferentContent               30   same name, other content
      BackupError                       1
      RecoveryError                     1
        TargetUnreachable              14   names the gap
      NotifyError                       1   nobody was told
      Interrupted                     130

A class fixes ``exit_code`` and ``retryable``; an instance may carry a ``hint``, the next command to
type or the next thing to look at. "Could not tell" is never "not found": only ``ObjectNotFound``
says that a store answered and that the object is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class WalkeeperError(Exception):
    """Root of everything that walkeeper raises on purpose.

    ``str(error)`` is one sentence for an operator; ``hint`` says what to do next, or is None.
    Neither may hold a secret.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(WalkeeperError):
    """The command was called in a way that has no meaning."""

    exit_code = 2


class ConfigError(WalkeeperError):
    """The configuration is missing, malformed or contradicts itself."""

    exit_code = 40


class StorageError(WalkeeperError):
    """A store could not do what it was asked, or could not tell."""

    exit_code = 20


class StorageUnavailable(StorageError):
    """The store was not reached, timed out, throttled, failed, or cut an answer short.

    ``retry_after_s`` is the pause that the store itself asked for, if it did.
    """

    retryable = True
    retry_after_s: float | None = None


class StorageDenied(StorageError):
    """The store refused the credentials or the operation."""

    exit_code = 22


class StorageFull(StorageError):
    """The store has no room left (quota, ENOSPC)."""


class ObjectNotFound(StorageError):
    """The store answered: there is no object of that name."""

    exit_code = 13


class ObjectExists(StorageError):
    """A create-only write met an object of that name; nothing was written."""

    exit_code = 1


class ObjectFrozen(StorageError):
    """The object lies in a cold storage class and must be thawed before it can be read."""


class PostgresError(WalkeeperError):
    """PostgreSQL answered with an error, or its files are not as they should be."""

    exit_code = 21


class PostgresUnavailable(PostgresError):
    """PostgreSQL could not be reached, or the session was lost."""

    retryable = True


class WrongServer(PostgresError):
    """The dsn leads to another server than the data directory belongs to."""

    exit_code = 15


class WalRefused(PostgresError):
    """A file offered for archiving is not what its name says, or comes from elsewhere."""

    exit_code = 1


class RepositoryError(WalkeeperError):
    """The archive as a whole is not in a state for what was asked."""


class NotInitialised(RepositoryError):
    """The repository holds no archive (of that name)."""

    exit_code = 10


class AmbiguousArchive(RepositoryError):
    """The repository holds several archives and none was named."""

    exit_code = 2


class ForeignCluster(RepositoryError):
    """The archive belongs to another cluster."""

    exit_code = 15


class FormatTooNew(RepositoryError):
    """The archive was written by a newer program with features unknown to this one."""

    exit_code = 16


class Locked(RepositoryError):
    """Another process holds what is needed."""

    exit_code = 11


class NoSuchBackup(RepositoryError):
    """No committed backup of that id exists, or none fits."""

    exit_code = 13


class NoSuchSegment(RepositoryError):
    """The archive answered: it does not hold that WAL file."""

    exit_code = 13


class KeyringError(WalkeeperError):
    """A key could not be used."""

    exit_code = 12


class WrongKey(KeyringError):
    """None of the identities at hand opens the object."""


class KeyUnavailable(KeyringError):
    """A key is needed that is missing, unreadable or malformed."""


class IntegrityError(WalkeeperError):
    """What is stored is not what was written: damaged, cut, swapped, unsigned or forged."""

    exit_code = 30


class DifferentContent(IntegrityError):
    """The name is taken by other content; nothing was overwritten."""


class BackupError(WalkeeperError):
    """A base backup could not be completed."""


class RecoveryError(WalkeeperError):
    """A recovery cannot be prepared or did not end where it should."""


class TargetUnreachable(RecoveryError):
    """The recovery target cannot be reached with what the archive holds."""

    exit_code = 14


class NotifyError(WalkeeperError):
    """A webhook, mail server or command did not take an alert, or a heartbeat was not heard."""


class Interrupted(WalkeeperError):
    """The operator or the system asked to stop."""

    exit_code = 130


def error_of(exit_code: int, message: str, hint: str = "") -> WalkeeperError:
    """An error that another process told of: of a class with that exit code."""
    classes = [WalkeeperError]
    for known in classes:
        if known.exit_code == exit_code:
            return known(message, hint=hint or None)
        classes += known.__subclasses__()
    return WalkeeperError(message, hint=hint or None)


def find_known(error: BaseException) -> WalkeeperError | None:
    """The error of ours that an exception is or, for the group of a TaskGroup, holds first."""
    if isinstance(error, WalkeeperError):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            known = find_known(inner)
            if known is not None:
                return known
    return None


@contextmanager
def unwrapped() -> Iterator[None]:
    """Let the error of ours out of the group that a TaskGroup made of it.

    Stands around every TaskGroup whose caller wants to know what went wrong. A group without an
    error of ours passes as it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        known = find_known(group)
        if known is None:
            raise
        raise known from group
