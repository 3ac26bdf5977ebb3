"""The data directory: who owns it, and where things lie in it."""

import os
from pathlib import Path

from filelock import FileLock, Timeout

from core.errors import DataFolderError


class DataFolder:
    """The folder with everything a person makes, locked for this process until `close`."""

    def __init__(self, root: Path) -> None:
        """Create the folder where needed and lock it.

        Raises:
            DataFolderError: it cannot be written, or another process has it.
        """
        self.root = root.expanduser().resolve()
        self._lock = FileLock(self.root / "app.lock", timeout=0)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._try_writing()
        except Timeout as error:
            raise DataFolderError(
                f"The data folder {self.root} is in use by another running Sightloop. "
                "Stop that one first, or start this one with another --data-dir."
            ) from error
        except OSError as error:
            raise DataFolderError(
                f"The data folder {self.root} cannot be written ({error.strerror or error}). "
                "Correct its permissions or free some space, or name another with --data-dir."
            ) from error

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.release()

    @property
    def pictures(self) -> Path:
        """Cleaned copies of people's pictures."""
        return self.root / "pictures"

    @property
    def gallery(self) -> Path:
        """Catalogue, vectors and thumbnails of what can be searched."""
        return self.root / "gallery"

    @property
    def adapters(self) -> Path:
        """The answerer's adapter versions."""
        return self.root / "adapters" / "answerer"

    def _try_writing(self) -> None:
        """A lock file may be open on a folder that takes nothing new."""
        probe = self.root / f".probe.{os.getpid()}"
        probe.write_bytes(b"sightloop")
        probe.unlink()
