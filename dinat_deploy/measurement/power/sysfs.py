"""Numbers from files of Linux that are read over and over, and why one of them cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

from dinat_deploy.measurement.power.source import SourceMissing


def text_of(path: Path) -> str:
    """First line of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ").partition("\n")[0]
    except OSError:
        return ""


def number_of(path: Path) -> int | None:
    """The whole number that a file begins with; None if it cannot be read or holds none."""
    try:
        return int(text_of(path).split()[0])
    except (IndexError, ValueError):
        return None


def refusal(path: Path, error: OSError) -> SourceMissing:
    """Why a file of a monitor cannot be read, and the cure."""
    if isinstance(error, PermissionError):
        return SourceMissing(
            f"{path} may not be read ({error.strerror})",
            f"Run it with sudo, or let everyone read it: `sudo chmod a+r {path}`.",
            present=True,
        )
    return SourceMissing(f"{path} cannot be read ({error.strerror or error})", present=True)


class NumberFile:
    """A file that holds one whole number, kept open: opening it costs more than reading it.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> int:
        """The number as it is now.

        Raises:
            OSError: the driver gives none, as for a monitor that is switched off.
            ValueError: it is no number.
        """
        return int(os.pread(self._descriptor, 64, 0).split(maxsplit=1)[0])

    def close(self) -> None:
        os.close(self._descriptor)
