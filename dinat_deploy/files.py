"""Directories that appear whole or not at all, and digests of files."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dinat_deploy.errors import OutputError

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_SCRATCH = "dinat-deploy-"
_TURN_SECONDS = 30.0
# Directories that this process is filling.
_own: set[tuple[int, int]] = set()


@contextmanager
def whole_directory(target: Path, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """Fill a temporary directory and rename it to ``target`` if all goes well.

    The temporary directory is a hidden neighbour of the target. On any exception, Ctrl-C
    included, it is removed and the target is left as it was. What a killed process left of one is
    removed by the next that comes to the same place; this process holds a lock on its own.

    Args:
        replaceable: whether a directory that stands at the target already may be replaced; an
            empty one always is.

    Raises:
        OutputError: the place cannot be written to, or holds something else.
    """
    try:
        refuse_to_replace(target, replaceable)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _turn(target.parent):
            _clean(target)
            held = _make_locked(target.parent, f".{target.name}.", ".partial")
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written: {_reason(error)}.",
            "Choose another --output, or mend the permissions.",
        ) from None
    partial = held.path
    try:
        partial.chmod(0o777 & ~_umask())
        yield partial
        with _turn(target.parent):
            _swap(partial, target, replaceable)
    except OSError as error:
        raise OutputError(
            f"Writing {target} failed: {_reason(error)}.",
            "Free disk space or choose another --output.",
        ) from error
    finally:
        if partial.is_symlink():  # which stood at the target, and rmtree leaves alone
            partial.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        held.release()


def refuse_to_replace(target: Path, replaceable: Callable[[Path], bool]) -> None:
    """Raise OutputError if something stands at the target that must not be replaced.

    Args:
        replaceable: as of :func:`whole_directory`.
    """
    try:
        if _may_be_replaced(target, replaceable):
            return
        taken = target.exists() or target.is_symlink()
    except OSError as error:  # such as a name that is too long
        raise OutputError(
            f"{target} cannot be written: {_reason(error)}.",
            "Choose another --output, or mend the permissions.",
        ) from None
    if taken:
        what = "a directory with other content" if target.is_dir() else "a file"
        raise OutputError(
            f"{target} exists and is {what}.", "Choose another --output, or remove it first."
        )


def _may_be_replaced(directory: Path, replaceable: Callable[[Path], bool]) -> bool:
    return directory.is_dir() and (not any(directory.iterdir()) or replaceable(directory))


def _clean(target: Path) -> None:
    """Remove what killed processes left beside the target."""
    for entry, lock in _abandoned(target.parent, f".{target.name}.", (".partial", ".old")):
        saved = entry / target.name
        if entry.suffix == ".old" and saved.is_dir() and not target.exists():
            # Killed between the two renames of _replace_in_two_steps.
            with suppress(OSError):
                saved.rename(target)
        shutil.rmtree(entry, ignore_errors=True)
        _unlock(lock)


@contextmanager
def hidden_directory(target: Path) -> Iterator[Path]:
    """A hidden neighbour of a file to prepare it in, removed at the end with what is left in it.

    Being on the same file system, a file can be renamed from there to its place. What a killed
    process left of such a directory is removed by the next one for the same file.

    Raises:
        OutputError: the place cannot be written to.
    """
    try:
        with _turn(target.parent):
            _clean(target)
            held = _make_locked(target.parent, f".{target.name}.", ".partial")
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written: {_reason(error)}.", "Mend the permissions."
        ) from None
    try:
        yield held.path
    except OSError as error:
        raise OutputError(
            f"Writing {target} failed: {_reason(error)}.", "Free disk space."
        ) from error
    finally:
        shutil.rmtree(held.path, ignore_errors=True)
        held.release()


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A temporary directory of this process; those that killed processes left are removed.

    Raises:
        OutputError: the system's place for them cannot be written to.
    """
    try:
        place = Path(tempfile.gettempdir())
        for entry, lock in _abandoned(place, _SCRATCH, (".scratch",)):
            shutil.rmtree(entry, ignore_errors=True)
            _unlock(lock)
        held = _make_locked(place, _SCRATCH, ".scratch")
    except OSError as error:
        raise OutputError(
            f"No temporary directory can be made: {error.filename or ''} {_reason(error)}.",
            "Free disk space, or set TMPDIR to a folder that can be written.",
        ) from None
    try:
        yield held.path
    finally:
        shutil.rmtree(held.path, ignore_errors=True)
        held.release()


class _Held(NamedTuple):
    """A directory that this process made and has locked."""

    path: Path
    identity: tuple[int, int]
    lock: int | None

    def release(self) -> None:
        _own.discard(self.identity)
        _unlock(self.lock)


def _make_locked(parent: Path, prefix: str, suffix: str) -> _Held:
    """A new temporary directory, locked."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))
        with suppress(BlockingIOError):
            lock = _lock(made)
            if made.exists():
                held = _Held(made, _identity(made), lock)
                _own.add(held.identity)
                return held
            _unlock(lock)
        # Another process took it for abandoned before it was locked.


@contextmanager
def _turn(parent: Path) -> Iterator[None]:
    """Change the entries of a directory in turn with other processes.

    Otherwise one could take what another has just moved out of its way for abandoned, and remove
    it while the other still looks at it.
    """
    deadline = time.monotonic() + _TURN_SECONDS
    lock = None
    while True:
        try:
            lock = _lock(parent)
        except BlockingIOError:
            # Locked by this very process, as a directory that it fills: nobody else writes there.
            if _identity(parent) not in _own and time.monotonic() < deadline:
                time.sleep(0.005)
                continue
        break
    try:
        yield
    finally:
        _unlock(lock)


def _identity(directory: Path) -> tuple[int, int]:
    found = directory.stat()
    return found.st_dev, found.st_ino


def _abandoned(parent: Path, prefix: str, suffixes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """Directories made by :func:`_make_locked` whose process is gone, locked now by this one."""
    pattern = re.compile(rf"{re.escape(prefix)}[^.]+({'|'.join(map(re.escape, suffixes))})")
    try:
        entries = [entry for entry in parent.iterdir() if pattern.fullmatch(entry.name)]
    except OSError:
        return
    for entry in entries:
        with suppress(OSError):  # in use, or gone meanwhile
            if entry.is_symlink() or not entry.is_dir() or not _is_own(entry):
                continue
            lock = _lock(entry)
            if lock is not None:
                yield entry, lock


def _is_own(entry: Path) -> bool:
    return not hasattr(os, "getuid") or entry.stat().st_uid == os.getuid()


def _swap(partial: Path, target: Path, replaceable: Callable[[Path], bool]) -> None:
    """Put the new directory where the target is; what was there is left in its place, if any."""
    refuse_to_replace(target, replaceable)
    if not target.exists():
        partial.rename(target)
    elif exchange(partial, target):
        _give_back_foreign(partial, target, replaceable)
    else:
        _replace_in_two_steps(partial, target)


def _give_back_foreign(partial: Path, target: Path, replaceable: Callable[[Path], bool]) -> None:
    """Undo the exchange if what came out of it is not ours to replace."""
    if not _may_be_replaced(partial, replaceable):
        exchange(partial, target)
        refuse_to_replace(target, replaceable)


def _replace_in_two_steps(partial: Path, target: Path) -> None:
    """Where directories cannot be exchanged: for a moment there is none at the target."""
    held = _make_locked(target.parent, f".{target.name}.", ".old")
    old = held.path
    try:
        target.rename(old / target.name)
        try:
            partial.rename(target)
        except BaseException:
            (old / target.name).rename(target)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
        held.release()


def exchange(first: Path, second: Path) -> bool:
    """Let two directories change places in one step.

    Returns:
        False where the system or the file system cannot do that.

    Raises:
        OSError: one of them is missing or may not be moved.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False  # not Linux
    names = (os.fsencode(first), os.fsencode(second))
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(first))


def _lock(directory: Path) -> int | None:
    """Lock a directory for as long as this process lives, however it ends.

    Returns:
        What :func:`_unlock` takes; None if the directory is gone or cannot be locked where it is.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    if fcntl is None:
        return None
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


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


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, that appears whole or not at all; an older one is replaced.

    Raises:
        OutputError: the place cannot be written to.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"Writing {path} failed: {_reason(error)}.", "Free disk space or mend the permissions."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return sha256_of(stream)


def sha256_of(stream: BinaryIO) -> str:
    """Hexadecimal SHA-256 of an open file, from its beginning."""
    digest = hashlib.sha256()
    stream.seek(0)
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def check_places(places: Sequence[Path]) -> None:
    """Find out before long work that its files could not be written.

    Raises:
        OutputError: something else than a file is at one of the places, its directory cannot be
            written to, or two are the same.
    """
    for path in places:
        reason = ""
        if path.exists() and not path.is_file():
            reason = "it is a directory" if path.is_dir() else "it is no file"
        elif not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            reason = f"{path.parent} is no directory that can be written to"
        if reason:
            raise OutputError(f"{path} cannot be written: {reason}.", "Choose another file.")
    if len({path.resolve() for path in places}) < len(places):
        raise OutputError("Two reports are to be written to the same file.", "Name another.")
