"""Directories that appear whole or not at all, and digests of files."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dinat_deploy.errors import OutputError


@contextmanager
def whole_directory(target: Path, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """Fill a temporary directory and rename it to ``target`` if all goes well.

    The temporary directory is a hidden neighbour of the target. On any exception, Ctrl-C
    included, it is removed and the target is left as it was.

    Args:
        replaceable: whether a directory that stands at the target already may be replaced; an
            empty one always is.

    Raises:
        OutputError: the place cannot be written to, or holds something else.
    """
    _refuse_to_replace(target, replaceable)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written: {_reason(error)}.",
            "Choose another --output, or mend the permissions.",
        ) from None
    partial = Path(made)
    try:
        partial.chmod(0o777 & ~_umask())
        yield partial
        _swap(partial, target, replaceable)
    except OSError as error:
        raise OutputError(
            f"Writing {target} failed: {_reason(error)}.",
            "Free disk space or choose another --output.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_to_replace(target: Path, replaceable: Callable[[Path], bool]) -> None:
    if target.is_dir() and (not any(target.iterdir()) or replaceable(target)):
        return
    if target.exists() or target.is_symlink():
        what = "a directory with other content" if target.is_dir() else "a file"
        raise OutputError(
            f"{target} exists and is {what}.", "Choose another --output, or remove it first."
        )


def _swap(partial: Path, target: Path, replaceable: Callable[[Path], bool]) -> None:
    """Rename, moving an old directory out of the way first: a name cannot be replaced in one go."""
    _refuse_to_replace(target, replaceable)
    if not target.exists():
        partial.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    target.rename(old / target.name)
    try:
        partial.rename(target)
    except BaseException:
        (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _reason(error: OSError) -> str:
    """The system's words, except where they mislead: a file stands where a directory must be."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{error.filename} is no directory"
    return error.strerror or str(error)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
