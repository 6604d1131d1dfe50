"""The record of plans that may run code on this machine."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from dinat_deploy.engine import trust
from dinat_deploy.errors import OutputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_a_plan_is_known_once_it_was_remembered(tmp_path: Path) -> None:
    assert not trust.is_known("ab" * 32)
    trust.remember("ab" * 32, tmp_path / "model.plan", "built")
    trust.remember("cd" * 32, tmp_path / "model.plan", "trusted")
    assert trust.is_known("ab" * 32)
    assert trust.is_known("cd" * 32)
    assert not trust.is_known("ab" * 31)
    record = trust.record_path()
    assert record == tmp_path / "data" / "dinat-deploy" / "trusted_plans.jsonl"
    first = json.loads(record.read_text().splitlines()[0])
    assert (first["how"], first["plan"]) == ("built", str(tmp_path / "model.plan"))
    assert first["by"].startswith("dinat-deploy ")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_nobody_else_may_write_the_record(tmp_path: Path) -> None:
    trust.remember("ab" * 32, tmp_path, "built")
    assert trust.record_path().stat().st_mode & 0o777 == 0o600


def test_damaged_lines_are_passed_over_and_do_not_swallow_the_next(tmp_path: Path) -> None:
    record = trust.record_path()
    record.parent.mkdir(parents=True)
    record.write_bytes(b'not JSON\n[1]\n"ab"\n\xff\n{"sha256": 7}\n{"sha256": "ab"')  # cut off
    assert not trust.is_known("ab")
    trust.remember("cd", tmp_path, "built")
    assert trust.is_known("cd")
    assert not trust.is_known("ab")


def test_a_record_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert not trust.is_known("ab")
    with pytest.raises(OutputError, match=r"trusted_plans\.jsonl.*cannot be written"):
        trust.remember("ab", tmp_path, "built")


def test_processes_that_remember_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom dinat_deploy.engine import trust\n"
        "for number in range(100):\n"
        "    trust.remember(f'{sys.argv[1]}{number}', Path('plan'), 'built')\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, name], cwd=ROOT) for name in "ab"]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert len(trust.record_path().read_text().splitlines()) == 200
    assert all(trust.is_known(f"{name}{number}") for name in "ab" for number in (0, 50, 99))


def elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(44)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"ftrt" + bytes(99), []),
        (b"ftrt" + elf(190) * 3, []),  # kernels
        (b"ftrt" + elf(190) + elf(62), ["x86_64"]),
        (elf(183) + b"padding" + elf(62), ["aarch64", "x86_64"]),
        (b"ftrt" + elf(62)[:10], []),  # ends in its header
        (b"\x7fELF\x7fELF" + elf(62)[4:], ["x86_64"]),
    ],
    ids=["empty", "none", "kernels", "one", "two", "cut off", "twice the mark"],
)
def test_libraries_inside_a_plan_are_found(
    content: bytes, found: list[str], tmp_path: Path
) -> None:
    (tmp_path / "plan").write_bytes(content)
    assert trust.libraries_inside(tmp_path / "plan") == found


def test_this_very_interpreter_is_found_in_a_plan(tmp_path: Path) -> None:
    """A real header, not one that this test made up."""
    binary = Path(sys.executable).resolve().read_bytes()
    if binary[:4] != b"\x7fELF":
        pytest.skip("needs a system with ELF files")
    (tmp_path / "plan").write_bytes(bytes(1000) + binary)
    assert os.uname().machine in trust.libraries_inside(tmp_path / "plan")
