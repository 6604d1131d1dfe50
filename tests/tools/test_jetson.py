"""The script for a bare Jetson, on a tree of files and with programs that stand for the device's."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import click
import pytest

from dinat_deploy.cli import cli
from tools import jetson

ORIN_NANO = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"

# Every program writes down how it was called.
PROGRAM = """#!/bin/sh
echo "${{0##*/}} $*" >> "$JETSON_LOG"
{body}
"""
# No module is there. An environment has a dinat-deploy that writes its call down, too; one that
# ends early has no pip.
PYTHON = """
[ "$1" != -c ] || exit 1
for place in "$@"; do :; done
mkdir -p "$place/bin"
cp "$JETSON_BIN/pip-python" "$place/bin/python"
[ "$JETSON_FAILS" != venv ] || exit 1
cp "$JETSON_BIN/fake-deploy" "$place/bin/dinat-deploy"
: > "$place/bin/pip"
"""
# A step can fail, be killed, or have the script told to end while it runs.
DEPLOY = """
[ "$1" != "$JETSON_FAILS" ] || case "$JETSON_HOW" in
    kill) kill -9 $$;;
    ?*) kill "-$JETSON_HOW" "$PPID"; sleep 5;;
    *) exit 1;;
esac
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in ("model.onnx", "model.fp16.onnx", "model.json"):
        (folder / name).touch()
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree(tmp_path / "the root")


def tree(root: Path, release: str = "36", revision: str = "4.3", module: str = ORIN_NANO) -> Path:
    files = {
        "etc/nv_tegra_release": f"# R{release} (release), REVISION: {revision}, GCID: 1, BOARD: x\n",
        "proc/device-tree/model": f"{module}\0",
        "proc/meminfo": "MemTotal:        7802884 kB\nMemAvailable:    6502400 kB\n",
        "etc/nvpmodel.conf": (
            "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n"
            "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
        ),
        "var/lib/nvpmodel/status": "pmode:0001",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.fixture
def log(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the calls are written down; the programs are on the PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    status = root / "var/lib/nvpmodel/status"
    bodies = {
        "sudo": 'exec "$@"',
        "apt-get": "",
        "g++": "",
        "nvpmodel": (
            f'[ -e "$JETSON_LOG.stuck" ] || printf "pmode:%04d" "$2" > {shlex.quote(str(status))}\n'
            '[ "$JETSON_FAILS" != "nvpmodel $2" ]'
        ),
        "jetson_clocks": (
            '[ "$JETSON_FAILS" != "clocks $1" ] || exit 1\n[ "$1" != --store ] || : > "$2"'
        ),
        "python3": PYTHON,
        "pip-python": "",
        "fake-deploy": DEPLOY,
    }
    for name, body in bodies.items():
        file = programs / name
        file.write_text(PROGRAM.format(body=body))
        file.chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("JETSON_BIN", str(programs))
    monkeypatch.setenv("JETSON_LOG", str(log))
    monkeypatch.setenv("JETSON_FAILS", "")
    monkeypatch.setenv("JETSON_HOW", "")
    return log


def start(bundle: Path, root: Path, *more: str) -> int:
    place = root.parent
    words = [str(bundle), "--environment", str(place / "dinat"), "--output", str(place / "out")]
    return jetson.main([*words, *more], root)


def calls(log: Path, program: str) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.split()[0] == program]


def test_a_bare_device_gets_to_a_measured_engine(bundle: Path, root: Path, log: Path) -> None:
    assert start(bundle, root, "--mode", "MAXN_SUPER") == 0
    steps = [line.split()[1] for line in calls(log, "dinat-deploy")]
    assert steps == ["doctor", "build", "verify", "bench"]
    (installed,) = calls(log, "python")
    assert "[gpu]" in installed and "cuda-python==12.*" in installed
    assert "model.fp16.onnx" in calls(log, "dinat-deploy")[1]
    assert "--low-memory" in calls(log, "dinat-deploy")[1]


def test_the_command_line_takes_every_command(bundle: Path, root: Path, log: Path) -> None:
    assert start(bundle, root) == 0
    for line in calls(log, "dinat-deploy"):
        context = click.Context(cli, info_name="dinat-deploy")
        name, command, rest = cli.resolve_command(context, shlex.split(line)[1:])
        assert command is not None
        command.make_context(name, rest, parent=context)


def test_mode_and_clocks_are_put_back(bundle: Path, root: Path, log: Path) -> None:
    assert start(bundle, root, "--mode", "MAXN_SUPER") == 0
    assert calls(log, "nvpmodel") == ["nvpmodel -m 2", "nvpmodel -m 1"]
    assert jetson.current_mode(root) == 1
    first, second, last = calls(log, "jetson_clocks")
    assert (first.split()[1], second, last.split()[1]) == (
        "--store",
        "jetson_clocks ",
        "--restore",
    )
    order = [line.split()[0] for line in log.read_text().splitlines()]
    assert order.index("nvpmodel") < order.index("dinat-deploy")


@pytest.mark.parametrize("step", ["build", "verify", "bench"])
def test_mode_and_clocks_are_put_back_after_a_failure(
    step: str,
    bundle: Path,
    root: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JETSON_FAILS", step)
    assert start(bundle, root, "--mode", "MAXN_SUPER") == 2
    assert calls(log, "dinat-deploy")[-1].split()[1] == step
    assert jetson.current_mode(root) == 1
    assert "--restore" in calls(log, "jetson_clocks")[-1]
    assert "failed with status 1" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "status"), [("INT", 130), ("TERM", 128 + 15), ("HUP", 128 + 1)])
def test_mode_and_clocks_are_put_back_when_the_script_is_to_end(
    name: str,
    status: int,
    bundle: Path,
    root: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C, kill, a lost connection; the step that runs is ended as well."""
    monkeypatch.setattr(jetson, "PATIENCE", 0.05)
    monkeypatch.setenv("JETSON_FAILS", "build")
    monkeypatch.setenv("JETSON_HOW", name)
    number = signal.Signals[f"SIG{name}"]
    # Should the script leave the signal alone, the tests are not what ends.
    handler = signal.default_int_handler if name == "INT" else lambda *_: None
    kept = signal.signal(number, handler)
    try:
        try:
            ended = start(bundle, root, "--mode", "MAXN_SUPER")
        except SystemExit as stopped:
            ended = int(stopped.code or 0)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, kept)
    assert ended == status
    assert calls(log, "dinat-deploy")[-1].split()[1] == "build"
    assert jetson.current_mode(root) == 1
    assert "--restore" in calls(log, "jetson_clocks")[-1]


@pytest.mark.parametrize("fails", ["nvpmodel 2", "clocks --store", "clocks "])
def test_what_was_changed_is_put_back_if_the_rest_cannot_be(
    fails: str, bundle: Path, root: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JETSON_FAILS", fails)
    assert start(bundle, root, "--mode", "MAXN_SUPER") == 2
    assert jetson.current_mode(root) == 1
    assert not calls(log, "dinat-deploy")[1:]
    assert ("--restore" in log.read_text()) == (fails == "clocks ")


def test_what_cannot_be_put_back_is_said_and_done_by_the_next_run(
    bundle: Path,
    root: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JETSON_FAILS", "clocks --restore")
    assert start(bundle, root, "--mode", "MAXN_SUPER") == 0
    store = root.parent / "out" / "clocks_before"
    command = f"sudo jetson_clocks --restore {shlex.quote(str(store))}"
    assert f"Still to be put back: {command}" in capfd.readouterr().err
    assert jetson.current_mode(root) == 1
    assert store.exists()
    # Clocks that are still locked are not what was before.
    log.write_text("")
    monkeypatch.setenv("JETSON_FAILS", "")
    assert start(bundle, root) == 0
    assert "--store" not in log.read_text()
    assert not store.exists()


def test_an_environment_that_was_left_half_done_is_completed(
    bundle: Path, root: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JETSON_FAILS", "venv")
    assert start(bundle, root) == 2
    assert (root.parent / "dinat/bin/python").exists()
    monkeypatch.setenv("JETSON_FAILS", "")
    log.write_text("")
    assert start(bundle, root) == 0
    assert any(" -m venv " in line for line in calls(log, "python3"))
    log.write_text("")
    assert start(bundle, root) == 0
    assert not any(" -m venv " in line for line in calls(log, "python3"))


def test_a_builder_that_is_killed_is_said_to_lack_memory(
    bundle: Path,
    root: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JETSON_FAILS", "build")
    monkeypatch.setenv("JETSON_HOW", "kill")
    assert start(bundle, root) == 2
    assert "memory is short" in capfd.readouterr().err


def test_a_mode_that_needs_a_restart_is_no_endless_wait(
    bundle: Path, root: Path, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(f"{log}.stuck").touch()
    assert start(bundle, root, "--mode", "15W") == 2
    assert "nvpmodel -m 0" in capfd.readouterr().err
    assert not calls(log, "dinat-deploy")


def test_an_unknown_mode_is_named_with_those_there_are(
    bundle: Path, root: Path, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(bundle, root, "--mode", "MAXN") == 2
    assert "no power mode MAXN, only 15W, 25W, MAXN_SUPER" in capfd.readouterr().err
    assert start(bundle, root, "--mode", "MAXN", "--dry-run") == 2
    assert not log.read_text()  # nothing was installed for it


def library(folder: Path, machine: int = jetson.AARCH64) -> Path:
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + machine.to_bytes(2, "little")
    folder.mkdir(parents=True)
    (folder / jetson.PLUGIN).write_bytes(header)
    return folder


def test_native_libraries_from_elsewhere_are_not_compiled_again(
    bundle: Path, root: Path, tmp_path: Path
) -> None:
    folder = library(tmp_path / "from elsewhere")
    options = jetson.arguments([str(bundle), "--native", str(folder)])
    todo = jetson.plan(options, jetson.Device.read(root), lambda _: False)
    assert todo.environment["DINAT_NATIVE_DIR"] == str(folder)
    assert "OFF" in todo.environment["CMAKE_ARGS"]
    assert not any("g++" in command for _, command in todo.install)


def test_mistakes_are_found_before_anything_is_installed(
    bundle: Path, root: Path, log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    desktop = library(tmp_path / "x86", machine=62)
    (tmp_path / "file").touch()
    for option, value, message in [
        ("--native", str(desktop), "is no library for aarch64"),
        ("--native", str(tmp_path / "none"), f"has no {jetson.PLUGIN}"),
        ("--package", str(tmp_path / "none.whl"), "There is no"),
        ("--output", str(tmp_path / "file"), "cannot be made"),
    ]:
        assert start(bundle, root, option, value) == 2
        assert message in capfd.readouterr().err
    for value in ("-1", "nan", "inf", "long"):
        with pytest.raises(SystemExit):
            start(bundle, root, "--duration", value)
    assert not [line for line in log.read_text().splitlines() if not line.startswith("python3 -c")]


def test_a_program_that_is_missing_is_named(
    bundle: Path, root: Path, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = jetson.runner({})
    with pytest.raises(jetson.SetupError, match=r"no-such-program cannot be started: No such file"):
        run(["no-such-program"])


def test_what_the_systems_python_has_is_asked_of_it() -> None:
    assert jetson.probe("json")
    assert not jetson.probe("no_such_module")


@pytest.mark.parametrize(
    ("release", "revision", "module", "expected"),
    [
        ("36", "4.3", ORIN_NANO, ("JetPack 6", "87")),
        ("36", "5.0", "NVIDIA Jetson AGX Orin Developer Kit", ("JetPack 6", "87")),
        ("38", "2.0", "NVIDIA Jetson AGX Thor Developer Kit", ("JetPack 7", "110")),
        ("39", "2.1", "NVIDIA Jetson AGX Orin Developer Kit", ("JetPack 7", "87")),
        ("39", "2.1", "a board of another vendor", ("JetPack 7", "")),
    ],
)
def test_devices_are_told_apart(
    release: str, revision: str, module: str, expected: tuple[str, str], tmp_path: Path
) -> None:
    device = jetson.Device.read(tree(tmp_path, release, revision, module))
    assert (device.jetpack, device.compute_capability) == expected
    assert device.memory_mb == 7620


@pytest.mark.parametrize(
    ("release", "revision"), [("32", "7.4"), ("35", "6.0"), ("36", "3.0"), ("41", "1.0")]
)
def test_other_releases_are_refused(
    release: str, revision: str, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(bundle, tree(tmp_path / "root", release, revision)) == 2
    assert f"L4T {release}.{revision}" in capfd.readouterr().err


def test_another_machine_is_no_jetson(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(bundle, tmp_path) == 2
    assert "no Jetson" in capfd.readouterr().err


def test_a_precision_that_the_bundle_lacks_is_named(
    bundle: Path, root: Path, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(bundle, root, "--precision", "int8") == 2
    assert "no int8 model, only fp32, fp16" in capfd.readouterr().err


def test_a_dry_run_changes_nothing(
    bundle: Path, root: Path, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(bundle, root, "--dry-run", "--mode", "MAXN_SUPER") == 0
    assert not [line for line in log.read_text().splitlines() if not line.startswith("python3 -c")]
    shown = capfd.readouterr().out.splitlines()
    programs = [Path(line.split()[0]).name for line in shown[1:]]
    assert programs.index("sudo") < programs.index("dinat-deploy")
    assert "sudo nvpmodel -m 2" in shown
    assert any(line.startswith("export DINAT_CUDA_ARCHITECTURES=87") for line in shown)
    assert not (root.parent / "out").exists()


def test_the_page_shows_what_a_dry_run_prints(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    sources = Path(jetson.__file__).parents[1]
    page = (sources / "docs/jetson.md").read_text()
    command, shown = re.findall(
        r"```sh title=\"Needs a Jetson\"\npython3 tools/jetson.py ([^\n]*)\n```.*?```text\n(.*?)```",
        page,
        re.DOTALL,
    )[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setattr(jetson, "probe", lambda _: False)
    monkeypatch.setattr(jetson, "native_folder", lambda folder: folder)
    folder = tmp_path / "out/for_the_jetson"
    folder.mkdir(parents=True)
    for name in ("model.onnx", "model.fp16.onnx", "model.json"):
        (folder / name).touch()
    words = shlex.split(command.replace("~", "/home/user"))
    assert jetson.main([*words, "--dry-run"], root) == 0
    printed = capfd.readouterr().out.replace(str(sources), "/home/user/dinat-deploy")
    assert printed == shown


def test_older_pythons_get_to_the_message_that_they_are_too_old() -> None:
    """JetPack 5 has Python 3.8, which knows no parentheses around several managers."""
    source = Path(jetson.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    assert "with (\n" not in source
    body = ast.parse(source).body
    # Aliases are evaluated when the module is imported; annotations are not.
    evaluated = [node for node in body if isinstance(node, (ast.Assign, ast.ImportFrom))]
    assert "collections.abc" not in {getattr(node, "module", None) for node in evaluated}
    assert not [
        node
        for statement in evaluated
        for node in ast.walk(statement)
        if isinstance(node, ast.Subscript)
    ]


def test_the_script_needs_nothing_but_python() -> None:
    """It runs before anything is installed."""
    code = (
        "import sys; before = set(sys.modules); import runpy\n"
        f"runpy.run_path({str(Path(jetson.__file__))!r})\n"
        "import json; print(json.dumps(sorted(m.split('.')[0] for m in set(sys.modules) - before)))"
    )
    answer = os.popen(f"{shlex.quote(sys.executable)} -I -S -c {shlex.quote(code)}").read()
    loaded = set(json.loads(answer))
    assert loaded <= set(sys.stdlib_module_names), loaded
