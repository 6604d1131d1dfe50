"""Watches one read: what it raises, prints, writes and takes.

Writes are seen twice: by Python's audit events wherever they go, and by comparing the folders around
the input before and after, which also shows those of native code.
"""

# Paths are plain text here: pathlib would normalise what the audit events say, and is slower.
# ruff: noqa: PTH100, PTH112, PTH114, PTH115, PTH117, PTH118, PTH119

from __future__ import annotations

import os
import re
import resource
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinat_deploy.errors import DinatDeployError
from tests.fuzzing.values import ABSOLUTE, OUTSIDE

FINDINGS = ("traceback", "crash", "hang", "write", "read", "start", "memory", "flood")
MEMORY_MB = 2048
# Of what a command may say on stderr.
_LINES, _CHARACTERS = 40, 6000
_SENTENCE = 4100
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events that change files, and which of their arguments name some.
_CHANGING: dict[str, tuple[int, ...]] = {
    "os.rename": (0, 1), "os.remove": (0,), "os.mkdir": (0,), "os.rmdir": (0,),
    "os.link": (0, 1), "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,),
    "os.chown": (0,), "os.utime": (0,), "shutil.rmtree": (0,), "shutil.move": (0, 1),
}  # fmt: skip
# Which argument is the folder, an open one, that a relative name is meant in.
_FOLDER = {"os.remove": 1, "os.mkdir": 2, "os.rmdir": 1}
_STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork",
             "socket.connect", "pickle.find_class")  # fmt: skip
_HARMLESS_PLACES = ("/dev/", "/proc/")
# Names that unpickling may look up: PyTorch's own reader asks for its harmless ones through here.
_HARMLESS_NAMES = re.compile(r"(torch|collections|numpy|_codecs|argparse|dinat_deploy)\b")


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        status: ``accepted``, ``refused``, or one of :data:`FINDINGS`.
        said: the message, or what is wrong.
        signature: the same for the same fault in other inputs; empty if there is none.
    """

    status: str
    said: str = ""
    signature: str = ""

    @property
    def is_finding(self) -> bool:
        return self.status in FINDINGS


@dataclass
class _Watch:
    """What the audit hook saw during a case."""

    allowed: tuple[str, ...]
    may_start: bool
    writes: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    starts: list[str] = field(default_factory=list)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if _is_writing(mode, flags):
                self._written(event, path)
            elif OUTSIDE in os.path.basename(_text(path)):
                self.reads.append(_text(path))
        elif event in _CHANGING:
            folder = arguments[_FOLDER[event]] if event in _FOLDER else -1
            for position in _CHANGING[event]:
                self._written(event, _within(folder, arguments[position]))
        elif event in _STARTING and not self.may_start:
            if event == "pickle.find_class" and _HARMLESS_NAMES.match(str(arguments[0])):
                return
            self.starts.append(f"{event} {arguments[:2]}")

    def _written(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        place = os.path.abspath(_text(path))
        if not place.startswith((*self.allowed, *_HARMLESS_PLACES)):
            self.writes.append(f"{event} {place}")


def _within(folder: int, path: Any) -> Any:
    if folder < 0 or isinstance(path, int) or os.path.isabs(_text(path)):
        return path
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), _text(path))


def _is_writing(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & _WRITING)


def _text(path: Any) -> str:
    with suppress(TypeError, ValueError):
        return os.fsdecode(path)
    return str(path)


_watch: _Watch | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watch is not None:
        _watch.see(event, arguments)


def install() -> None:
    """Start to listen; an audit hook stays for the life of the process."""
    sys.addaudithook(_hook)


def limit_memory(megabytes: int = MEMORY_MB) -> None:
    """Let the process take no more than so much more address space than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + (2 * megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 << 20, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _peak_mb() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


def _resident_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


Snapshot = dict[str, tuple[int, int, int]]


def snapshot(root: Path, without: tuple[str, ...]) -> Snapshot:
    """Kind, size and time of change of everything below a folder."""
    found: Snapshot = {}
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not os.path.join(folder, name).startswith(without)]
        for name in (*names, *files):
            path = os.path.join(folder, name)
            if path.startswith(without):
                continue
            state = os.lstat(path)
            is_folder = os.path.isdir(path) and not os.path.islink(path)
            # A folder's own time changes with what is allowed in it.
            found[path] = (state.st_mode, 0, 0) if is_folder else (
                state.st_mode, state.st_size, state.st_mtime_ns)  # fmt: skip
    return found


def watched(
    read: Callable[[], object],
    root: Path,
    allowed: tuple[Path, ...],
    stderr: Path,
    *,
    may_start: bool = False,
) -> Outcome:
    """Run a reader and judge what it did.

    Args:
        root: folder whose files must be the same after, but for those in ``allowed``.
        stderr: file that the process's stderr goes to, empty.
        may_start: whether it may start a program.
    """
    global _watch
    places = tuple(f"{path}" for path in allowed)
    before = snapshot(root, places)
    _forget_peak()
    resident = _resident_mb()
    _watch = seen = _Watch(places, may_start)
    try:
        outcome = _result_of(read)
    finally:
        _watch = None
    sys.stderr.flush()
    peak = _peak_mb() - resident
    printed = stderr.read_text(errors="replace")
    if outcome.is_finding:
        return outcome
    after = snapshot(root, places)
    changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    changed += [str(path) for path in Path(ABSOLUTE).parent.glob(f"{Path(ABSOLUTE).name}*")]
    changed += seen.writes
    if changed:
        return Outcome(
            "write", f"changed: {'; '.join(changed[:5])}", "write " + _general(changed[0])
        )
    if seen.reads:
        return Outcome("read", f"read: {seen.reads[0]}", "read " + _general(seen.reads[0]))
    if seen.starts:
        return Outcome("start", seen.starts[0], "start " + _general(seen.starts[0]))
    if peak > MEMORY_MB:
        return Outcome("memory", f"{peak} MB at its peak ({outcome.status})", "memory")
    return _printed(outcome, printed)


def _result_of(read: Callable[[], object]) -> Outcome:
    try:
        read()
    except DinatDeployError as error:
        return _refusal(error.cause, error.cure)
    except SystemExit as stop:
        if stop.code in (0, 1, None):  # done; or done, and the answer is no
            return Outcome("accepted")
        if stop.code == 2:
            return Outcome("refused")
        return Outcome("traceback", f"exit status {stop.code}", f"exit status {stop.code}")
    except BaseException as error:
        return _raised(error)
    return Outcome("accepted")


def _refusal(cause: str, cure: str) -> Outcome:
    if not cause.strip() or len(cause) > _SENTENCE or len(cure) > _SENTENCE:
        return Outcome("flood", f"{len(cause)} characters: {cause[:300]}", f"long: {cause[:20]}")
    return Outcome("refused", f"{cause} {cure}".strip())


def _raised(error: BaseException) -> Outcome:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "dinat_deploy" in frame.filename]
    last = own[-1] if own else frames[-1]
    place = f"{Path(last.filename).name}:{last.name}"
    text = "".join(traceback.format_exception(error)[-12:])
    signature = f"{type(error).__name__} in {place}"
    return Outcome("traceback", text[-3000:], signature)


def _printed(outcome: Outcome, printed: str) -> Outcome:
    if "Traceback (most recent call last)" in printed or "Exception ignored" in printed:
        return Outcome("traceback", printed[-3000:], "printed " + _general(printed[-200:]))
    lines = printed.splitlines()
    if len(lines) > _LINES or len(printed) > _CHARACTERS:
        about = f"{len(lines)} lines, {len(printed)} characters on stderr: {printed[:1500]}"
        return Outcome("flood", about, "flood " + _general(lines[0] if lines else ""))
    if outcome.status == "refused" and not outcome.said:
        errors = [line for line in lines if line.startswith(("Error:", "Usage:"))]
        if not errors:
            return Outcome("traceback", f"exit status 2 without a word: {printed[:500]}", "silent")
        return Outcome(
            "refused", " ".join(line.strip() for line in lines[lines.index(errors[0]) :])
        )
    return outcome


def _general(text: str) -> str:
    """Without what differs from case to case."""
    return re.sub(r"[0-9]+|/\S*/", "#", text)[:120]
