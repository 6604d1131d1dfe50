"""Directories appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinat_deploy.errors import OutputError
from dinat_deploy.files import sha256, whole_directory


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
