"""Directories appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dinat_deploy import files
from dinat_deploy.errors import OutputError
from dinat_deploy.files import exchange, scratch_directory, sha256, whole_directory

ROOT = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="needs processes and locks of POSIX")


def never(_: Path) -> bool:
    return False


def has_mark(path: Path) -> bool:
    return (path / "mark").exists()


def left_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_the_directory_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with whole_directory(target, never) as partial:
        (partial / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert left_in(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_when_the_block_fails(failure: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(failure), whole_directory(tmp_path / "b", never) as partial:
        (partial / "file").write_text("x")
        raise failure
    assert left_in(tmp_path) == []


def test_an_older_directory_is_replaced_only_by_a_whole_new_one(tmp_path: Path) -> None:
    target = tmp_path / "b"
    target.mkdir()
    (target / "mark").write_text("old")
    with pytest.raises(ValueError), whole_directory(target, has_mark):
        raise ValueError
    assert (target / "mark").read_text() == "old"
    with whole_directory(target, has_mark) as partial:
        (partial / "new").write_text("new")
    assert left_in(target) == ["new"]
    assert left_in(tmp_path) == ["b"]


def test_foreign_content_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter").write_text("years of work")
    with (
        pytest.raises(OutputError, match="exists and is a directory with other content"),
        whole_directory(target, has_mark),
    ):
        pass
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OutputError, match="exists and is a file"), whole_directory(file, never):
        pass
    assert (target / "chapter").exists()
    assert file.read_text() == "x"


def test_content_that_comes_meanwhile_is_not_replaced_either(tmp_path: Path) -> None:
    target = tmp_path / "b"
    with pytest.raises(OutputError, match="other content"), whole_directory(target, has_mark):
        target.mkdir()
        (target / "someone").write_text("else")
    assert left_in(target) == ["someone"]
    assert left_in(tmp_path) == ["b"]


@posix
def test_a_link_to_a_directory_is_replaced_and_what_it_leads_to_is_left(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "mark").write_text("x")
    (tmp_path / "link").symlink_to(old)
    with whole_directory(tmp_path / "link", has_mark) as partial:
        (partial / "file").write_text("y")
    assert left_in(tmp_path) == ["link", "old"]
    assert left_in(tmp_path / "link") == ["file"] and left_in(old) == ["mark"]


def test_an_empty_directory_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with whole_directory(tmp_path / "b", never) as partial:
        (partial / "file").write_text("x")
    assert left_in(tmp_path / "b") == ["file"]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(OutputError, match="cannot be written: .*file is no directory"),
        whole_directory(tmp_path / "file" / "b", never),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_place_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(OutputError, match="Permission denied"),
        whole_directory(tmp_path / "b", never),
    ):
        pass


def test_new_directories_have_the_usual_permissions(tmp_path: Path) -> None:
    with whole_directory(tmp_path / "made", never):
        pass
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_digests_are_those_of_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f").startswith("ba7816bf8f01cfea")


@posix
@pytest.mark.parametrize("litter", ["clean", "litter"])
@pytest.mark.parametrize("how", ["fresh", "exchange", "steps"])
def test_killed_at_any_line_it_leaves_the_old_or_the_new_directory(
    how: str, litter: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.killed_writers", tmp_path / "t", how, litter]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    killed, seen, left = done.stdout.strip().replace("} [", "}|[").replace(" {", "|{").split("|")
    assert int(killed) > 40
    assert ("'old'" in seen) is (how != "fresh")
    if litter == "clean":
        assert "'new'" in seen
        assert ("'missing'" in seen) is (how != "exchange")
    assert left == "['t']"


HOLDER = """
import sys
from pathlib import Path
from dinat_deploy.files import scratch_directory, whole_directory
with whole_directory(Path(sys.argv[1]), lambda path: True) as made, scratch_directory() as scratch:
    (made / "file").write_text("x")
    print(made, scratch, flush=True)
    sys.stdin.read()
"""


@posix
def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "dinat-deploy-a.b.scratch").mkdir()  # not of this making
    target = tmp_path / "b"
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, target], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    places = []
    for holder in holders:
        assert holder.stdout is not None
        places.append([Path(name) for name in holder.stdout.readline().split()])
    # Neighbours whose names only look alike.
    for name in (".b.c.12345678.partial", ".bb.12345678.partial", "b.12345678.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / ".b.12345678.partial").write_text("a file")
    (tmp_path / ".b.23456789.partial").symlink_to(tmp_path / "tmp")
    holders[0].kill()
    holders[0].communicate()
    with whole_directory(target, has_mark) as partial, scratch_directory() as scratch:
        (partial / "mark").write_text("x")
        assert scratch.is_dir()
        assert [path.exists() for path in (*places[0], *places[1])] == [False, False, True, True]
    assert not scratch.exists()
    assert set(left_in(tmp_path / "tmp")) == {"dinat-deploy-a.b.scratch", places[1][1].name}
    assert left_in(tmp_path) == sorted([
        ".b.12345678.partial", ".b.23456789.partial", ".b.c.12345678.partial",
        ".bb.12345678.partial", "b", "b.12345678.partial", "tmp", places[1][0].name,
    ])  # fmt: skip
    holders[1].communicate("")
    assert holders[1].returncode == 0
    assert left_in(target) == ["file"]


WRITER = """
import sys
from pathlib import Path
from dinat_deploy import files
if sys.argv[3] == "steps":
    files.exchange = lambda first, second: False
for number in range(60):
    with files.whole_directory(Path(sys.argv[1]), lambda path: (path / "a").exists()) as made:
        for name in "ab":
            (made / name).write_text(f"{sys.argv[2]}{number}")
"""


@posix
@pytest.mark.parametrize("how", ["exchange", "steps"])
def test_processes_that_write_the_same_place_replace_each_other_whole(
    how: str, tmp_path: Path
) -> None:
    target = tmp_path / "b"
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, target, name, how], cwd=ROOT)
        for name in "xy"
    ]
    while any(process.poll() is None for process in running):
        try:
            texts = [(target / name).read_text() for name in "ab"]
        except FileNotFoundError:
            continue  # before the first, or replaced while it was read
        # Between the two files it may have been replaced, but neither is ever empty.
        assert all(texts)
    assert [process.returncode for process in running] == [0, 0]
    assert left_in(tmp_path) == ["b"]
    assert len({(target / name).read_text() for name in "ab"}) == 1


def test_two_directories_change_places_or_say_that_they_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        place.mkdir()
        (place / "name").write_text(place.name)
    if exchange(first, second):
        assert ((first / "name").read_text(), (second / "name").read_text()) == ("second", "first")
        with pytest.raises(FileNotFoundError):
            exchange(first, tmp_path / "gone")
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    assert exchange(first, second) is False


def test_what_stands_at_the_place_when_it_is_swapped_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program puts its own directory there between our last look and the exchange."""
    target = tmp_path / "b"
    target.mkdir()
    (target / "mark").write_text("old")
    real = files.exchange

    def late(first: Path, second: Path) -> bool:
        if (second / "mark").exists():
            (second / "mark").rename(second / "theirs")
        return real(first, second)

    (tmp_path / "other").mkdir()
    if not real(target, tmp_path / "other"):
        pytest.skip("directories cannot be exchanged here")
    real(target, tmp_path / "other")
    monkeypatch.setattr(files, "exchange", late)
    with (
        pytest.raises(OutputError, match="other content"),
        whole_directory(target, has_mark) as partial,
    ):
        (partial / "mark").write_text("new")
    assert left_in(target) == ["theirs"]


def test_names_that_the_system_refuses_are_errors_with_a_cure(tmp_path: Path) -> None:
    for name in ("x" * 300, "x" * 250):  # the second only with what is added to it
        with (
            pytest.raises(OutputError, match="cannot be written: File name too long") as caught,
            whole_directory(tmp_path / name, never),
        ):
            pass
        assert "Choose another --output" in caught.value.cure


def test_a_directory_in_a_scratch_directory_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scratch directory is locked by this very process, which alone writes there."""
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited for itself"))
    with files.scratch_directory() as scratch:
        with files.whole_directory(scratch / "made", lambda _: False) as partial:
            (partial / "file").touch()
        assert (scratch / "made/file").exists()
