"""Files of measured kernel times: shared by builds at the same time, never damaged, never fatal."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from dinat_deploy.engine import timing_cache
from dinat_deploy.engine.builder import Gpu

GPU = Gpu(name="NVIDIA RTX A4000", capability="86", driver="13.0", memory=16 << 30)
ROOT = Path(__file__).parents[2]


def union(there: bytes, new: bytes) -> bytes:
    """Like TensorRT's caches: a header, then entries."""
    if not there.startswith(b"times\n") or not there.endswith(b"\nend"):
        raise ValueError("it is not of this TensorRT")
    return cache(*entries(there), *entries(new))


def cache(*keys: str) -> bytes:
    lines = ["times", *(f"{key} {'measured' * 50}" for key in sorted(set(keys))), "end"]
    return "\n".join(lines).encode()


def entries(data: bytes) -> list[str]:
    first, *lines, last = data.decode().splitlines()
    assert (first, last) == ("times", "end"), "it is not whole"
    return [line.split()[0] for line in lines]


def test_there_is_one_file_for_each_tensorrt_gpu_and_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DINAT_CACHE_DIR", str(tmp_path))
    path = timing_cache.default_path("tensorrt", "10.13.3.9", GPU)
    assert path == tmp_path / "timing" / "tensorrt-10.13.3.9-NVIDIA_RTX_A4000-sm86-cuda13.0.cache"
    others = [
        timing_cache.default_path("tensorrt", "10.13.3.10", GPU),
        *(
            timing_cache.default_path("tensorrt", "10.13.3.9", GPU.model_copy(update=change))
            for change in ({"name": "NVIDIA RTX A400"}, {"capability": "89"}, {"driver": "13.1"})
        ),
    ]
    assert len({path, *others}) == 5
    odd = timing_cache.default_path("tensorrt", "10.3.0", Gpu(name="../x/y z", capability="87"))
    assert odd.parent == path.parent
    monkeypatch.delenv("DINAT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert timing_cache.default_path("tensorrt", "1", GPU).is_relative_to(
        tmp_path / "xdg" / "dinat-deploy"
    )


def test_what_is_stored_is_loaded_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "times.cache"
    assert timing_cache.load(path) == b""
    assert timing_cache.store(path, cache("a"), union) == []
    assert timing_cache.load(path) == cache("a")
    # Another build began before "b" was there.
    assert timing_cache.store(path, cache("b"), union) == []
    assert timing_cache.store(path, cache("a", "c"), union) == []
    assert entries(timing_cache.load(path)) == ["a", "b", "c"]
    assert timing_cache.store(path, b"", union) == []
    assert entries(timing_cache.load(path)) == ["a", "b", "c"]


def test_nothing_is_written_or_merged_when_nothing_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "times.cache"
    timing_cache.store(path, cache("a"), union)
    before = path.stat()

    def never(there: bytes, new: bytes) -> bytes:
        raise AssertionError

    assert timing_cache.store(path, cache("a"), never) == []
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("damage", [b"\x00" * 99, b"time", b"\xff\xfe text"])
def test_a_damaged_cache_is_set_aside_with_a_note(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "times.cache"
    path.write_bytes(damage)
    (note,) = timing_cache.store(path, cache("a"), union)
    assert (
        "cannot be used (it is not of this TensorRT); it was moved to times.cache.damaged" in note
    )
    assert timing_cache.load(path) == cache("a")
    assert (tmp_path / "times.cache.damaged").read_bytes() == damage
    assert timing_cache.store(path, cache("b"), union) == []


def test_places_that_cannot_be_used_are_notes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (note,) = timing_cache.store(tmp_path / "file" / "times.cache", cache("a"), union)
    assert "was not updated" in note
    (tmp_path / "folder").mkdir()
    assert timing_cache.load(tmp_path / "folder") == b""
    (note,) = timing_cache.store(tmp_path / "folder", cache("a"), union)
    assert "was not updated" in note


def test_a_lock_that_is_not_given_back_is_a_note(tmp_path: Path) -> None:
    path = tmp_path / "times.cache"
    with FileLock(tmp_path / ".times.cache.lock"):
        code = (
            "from pathlib import Path\nfrom dinat_deploy.engine import timing_cache\n"
            f"print(timing_cache.store(Path({str(path)!r}), b'x', max, lock_seconds=0.2))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
        )
    assert "another process has held its lock" in done.stdout
    assert not path.exists()


WRITER = """
import sys
from pathlib import Path
from dinat_deploy.engine import timing_cache
from tests.engine.test_timing_cache import cache, entries, union
path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.read(1)
own = timing_cache.load(path)
for number in range(count):
    own = cache(*entries(own), f"{name}{number}") if own else cache(f"{name}{number}")
    for note in timing_cache.store(path, own, union):
        print(note)
    seen = timing_cache.load(path)
    assert set(entries(own)) <= set(entries(seen))
    print(number, flush=True)
"""


def start(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_builds_at_the_same_time_lose_nothing_and_a_killed_one_damages_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "times.cache"
    timing_cache.store(path, cache("old"), union)
    writers = {name: start(path, name, 150) for name in ("a", "b")}
    victim = start(path, "v", 100_000)
    for writer in (*writers.values(), victim):
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in (*writers.values(), victim):
        assert writer.stdin is not None
        writer.stdin.write("g")
        writer.stdin.flush()
    time.sleep(random.Random(7).uniform(0.05, 0.2))
    victim.kill()
    stored = victim.communicate()[0].split()
    while any(writer.poll() is None for writer in writers.values()):
        entries(timing_cache.load(path))  # whole whenever it is read
    for writer in writers.values():
        said = writer.communicate(timeout=60)[0].splitlines()
        assert writer.returncode == 0
        assert said == [str(number) for number in range(150)]
    found = set(entries(timing_cache.load(path)))
    assert found >= {"old", *(f"{name}{number}" for name in "ab" for number in range(150))}
    assert found >= {f"v{number}" for number in stored}
    # What the killed one was writing is taken over by the next that stores.
    timing_cache.store(path, cache("last"), union)
    assert not [entry for entry in os.listdir(tmp_path) if entry.endswith(".partial")]  # noqa: PTH208
