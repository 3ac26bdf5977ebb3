"""How the database is opened, and what its failures mean to a person."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlite_utils import Database

from core.errors import DataFolderError

BUSY_TIMEOUT_S = 30  # how long to wait for another process's lock before giving up

_MEANINGS = {
    sqlite3.SQLITE_FULL: "the disk is full. Free some space",
    sqlite3.SQLITE_READONLY: "its folder is read-only. Make it writable",
    sqlite3.SQLITE_PERM: "access was denied. Make the folder writable",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened. Check that its folder exists and is writable",
    sqlite3.SQLITE_IOERR: "the disk refused to read or write. Check its free space and its health",
    sqlite3.SQLITE_BUSY: "another process holds the database. Close the other one",
    sqlite3.SQLITE_LOCKED: "another process holds the database. Close the other one",
    sqlite3.SQLITE_CORRUPT: "the database is damaged. Move it away and put a snapshot in its place",
    sqlite3.SQLITE_NOTADB: "the file is not a database. Move it away or choose another --data-dir",
}


def open_for_writing(path: Path) -> Database:
    """The one writing connection to `path`: WAL, and on the disk once committed.

    synchronous=FULL because NORMAL may lose the last commits when the power fails.

    Raises:
        DataFolderError: the folder's file system cannot hold a write-ahead log.
        sqlite3.Error: see `problem_with`.
    """
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
    )
    try:
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise DataFolderError(
                f"{path} cannot be used: its file system does not support SQLite's write-ahead "
                "log. Choose a --data-dir on a local disk."
            )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
    except BaseException:
        connection.close()
        raise
    return Database(connection, strict=True)


@contextmanager
def open_for_reading(path: Path) -> Iterator[Database]:
    """A connection of one's own that sees the last commit and can write nothing.

    Raises:
        DataFolderError: the file is missing, damaged or cannot be read.
    """
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
            yield Database(connection)
    except sqlite3.DatabaseError as error:
        raise problem_with(path, error) from error


def problem_with(path: Path, error: sqlite3.Error) -> DataFolderError:
    """What went wrong and what to do about it; raises `error` itself when it is a bug of ours."""
    return DataFolderError(f"{path} cannot be used: {_meaning(error)} and try again. ({error})")


def not_saved(error: sqlite3.Error) -> DataFolderError:
    """The same for a visitor, who must not learn where the file lies."""
    return DataFolderError(f"This was not saved: {_meaning(error)} and try again.")


def _meaning(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code not in _MEANINGS:
        raise error
    return _MEANINGS[code]
