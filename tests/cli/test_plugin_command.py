"""``dinat-deploy plugin``: builds of a small project in place of the real one, which CI builds whole."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dinat_deploy
from dinat_deploy import native
from dinat_deploy.native import CudaCompiler
from dinat_deploy.pipeline.diagnosing import doctor
from dinat_deploy.pipeline.plugins import _cross_libraries
from dinat_deploy.progress import Silent
from tests.cli.conftest import Command

ROOT = Path(__file__).parents[2]
TOOLS = [native.find_program("cmake"), native.find_program("ninja"), native.find_cxx()]
pytestmark = pytest.mark.skipif(not all(TOOLS), reason="needs cmake, ninja and a C++ compiler")


@pytest.fixture
def plugin(command: Command) -> Command:
    """Run ``dinat-deploy plugin`` with these arguments."""
    return lambda *arguments: command("plugin", *arguments)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folders, empty, with nothing native installed and no CUDA compiler."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DINAT_NATIVE_DIR", raising=False)
    monkeypatch.delenv("DINAT_CROSS_CUDA_LIBRARY_DIR", raising=False)
    monkeypatch.setattr(native, "_package_directories", lambda: [tmp_path / "package"])
    monkeypatch.setattr(native, "find_cuda", lambda directory=None: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(home: Path) -> Path:
    """Native sources of one small library, built by the real modules of cmake/."""
    sources = home / "package" / "_native" / "source"
    shutil.copytree(ROOT / "cmake", sources / "cmake")
    (sources / "plugins").mkdir()
    shutil.copy(ROOT / "CMakeLists.txt", sources)
    (home / "__init__.py").write_text('__version__ = "0.0.1"\n')
    (home / "package" / "__init__.py").write_text(f'__version__ = "{dinat_deploy.__version__}"\n')
    (sources / "plugins" / "CMakeLists.txt").write_text(
        "dinat_module(dinat_onnxruntime first.cpp second.cpp)\n"
    )
    (sources / "plugins" / "first.cpp").write_text(
        "#include <stdlib.h>\n"
        'extern "C" __attribute__((visibility("default"))) int shown() { return rand(); }\n'
    )
    (sources / "plugins" / "second.cpp").write_text("int unseen() { return 2; }\n")
    return sources


def toolkit(folder: Path, version: str, *architectures: int) -> CudaCompiler:
    return CudaCompiler(folder / "bin" / "nvcc", version, list(architectures))


def left_over(home: Path) -> list[Path]:
    """Files outside the project that a failed build left."""
    places = [home / "data", home / "out", home / "cache"]
    return [path for place in places for path in place.rglob("*") if path.is_file()]


def test_build_puts_libraries_where_sessions_find_them(
    plugin: Command, project: Path, home: Path
) -> None:
    made = plugin("build")
    assert made.status == 0
    folder = home / "data" / "dinat-deploy" / dinat_deploy.__version__ / "native"
    assert f"{folder}/libdinat_onnxruntime.so: {platform.machine()}, " in made.out
    assert "Sessions and engine builds find them here." in made.out
    assert "Note: No CUDA compiler, so no TensorRT plugin. pip install" in made.err
    # One step for each file, the label, and the library; more only if CMake adds some.
    steps = next(line for line in made.err.splitlines() if line.startswith("Compiling"))
    assert int(steps.split()[1]) >= 4
    assert native.find_library("onnxruntime") == folder / "libdinat_onnxruntime.so"
    info = native.library_info(folder / "libdinat_onnxruntime.so")
    assert info.symbols == ["shown"]
    assert info.version == dinat_deploy.__version__
    assert "GNU" in info.compilers or "Clang" in info.compilers
    assert [path.parent for path in left_over(home)] == [folder]

    again = plugin("build", "--json", "--jobs", 1)
    report = json.loads(again.out)
    assert report["found"] is True
    assert report["cuda"] is None
    assert [library["name"] for library in report["libraries"]] == ["dinat_onnxruntime"]


def test_build_into_a_folder_says_how_to_use_it(
    plugin: Command, project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plugin("build", "--output", "libs", "--verbose")
    assert made.status == 0
    assert f"set DINAT_NATIVE_DIR={home / 'libs'}" in made.out
    assert "[1/" in made.err  # ninja's own lines
    assert native.find_library("onnxruntime") is None
    monkeypatch.setenv("DINAT_NATIVE_DIR", "libs")
    assert native.find_library("onnxruntime") == home / "libs" / "libdinat_onnxruntime.so"


def test_a_folder_with_other_things_is_not_replaced(
    plugin: Command, project: Path, home: Path
) -> None:
    (home / "mine").mkdir()
    (home / "mine" / "thesis.txt").touch()
    refused = plugin("build", "--output", "mine")
    assert refused.status == 2
    assert "is a directory with other content" in refused.err
    assert [path.name for path in (home / "mine").iterdir()] == ["thesis.txt"]


def test_a_failed_build_keeps_its_log_and_the_old_libraries(
    plugin: Command, project: Path, home: Path
) -> None:
    assert plugin("build").status == 0
    library = native.find_library("onnxruntime")
    assert library is not None
    before = native.library_info(library).sha256
    (project / "plugins" / "second.cpp").write_text("int unseen() { return missing; }\n")
    failed = plugin("build", "--json")
    assert failed.status == 2
    error = json.loads(failed.out)["error"]
    assert "second.cpp:1:" in error["cause"]
    assert "missing" in error["cause"]
    log = Path(error["cure"].removeprefix("The log is ").removesuffix("."))
    assert "cmake -S" in log.read_text().splitlines()[0]
    assert "FAILED" in log.read_text()
    assert native.library_info(library).sha256 == before
    assert sorted(left_over(home)) == sorted([log, library])


def test_a_failed_configuration_is_reported(plugin: Command, project: Path) -> None:
    (project / "plugins" / "CMakeLists.txt").write_text('message(FATAL_ERROR "no such thing")\n')
    failed = plugin("build")
    assert failed.status == 2
    assert "Error: The build failed: CMake Error at plugins/CMakeLists.txt:1" in failed.err
    assert "(message): no such thing" in failed.err  # CMake puts the reason on the next line


@pytest.mark.parametrize(
    ("says", "cure"),
    [
        ("#error -- unsupported GNU version! gcc versions later than 13", "CUDAHOSTCXX=g++-12"),
        ("fatal error: error writing: No space left on device", "TMPDIR"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "--jobs 1"),
    ],
)
def test_known_failures_come_with_their_cure(
    says: str, cure: str, plugin: Command, project: Path
) -> None:
    (project / "plugins" / "first.cpp").write_text(f"#warning {says}\n#error {says}\n")
    failed = plugin("build")
    assert failed.status == 2
    assert cure in failed.err


def test_what_is_missing_is_named_with_the_line_that_brings_it(
    plugin: Command, project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(name: str, message: str, cure: str) -> None:
        found = native.find_program
        with monkeypatch.context() as patch:
            patch.setattr(native, "find_program", lambda *n: None if name in n else found(*n))
            failed = plugin("build")
        assert failed.status == 2
        assert message in failed.err
        assert cure in failed.err

    without("cmake", "CMake is missing", "pip install cmake")
    without("ninja", "Ninja, which runs the compilers, is missing", "pip install ninja")
    without("c++", "There is no C++ compiler", "apt-get install g++")
    with monkeypatch.context() as patch:
        patch.setattr(native, "output_of", lambda *_: "cmake version 3.22.1")
        assert "is older than 3.24" in plugin("build").err
    monkeypatch.setattr(native, "_package_directories", lambda: [home / "nowhere"])
    assert "sources are not in this installation" in plugin("build").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "87"], "No CUDA compiler (nvcc) was found."),
        (["--cuda", "toolkit"], "No CUDA compiler (nvcc) was found in toolkit/bin."),
    ],
)
def test_asking_for_gpus_without_a_compiler_is_an_error(
    arguments: list[str], message: str, plugin: Command, project: Path, home: Path
) -> None:
    failed = plugin("build", *arguments)
    assert failed.status == 2
    assert message in failed.err
    assert "pip install 'dinat-deploy[cuda]'" in failed.err
    assert left_over(home) == []


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("87,110", "Architecture 110 is unknown to nvcc 12.6.85"),
        ("110", "which compiles for 80, 87, 90."),
        ("70", "'70' is no GPU architecture that the kernels can be built for."),
        ("sm_89", "Architecture 89 is unknown to nvcc 12.6.85"),
        ("8.9", "Architecture 89 is unknown to nvcc 12.6.85"),
        ("ampere", "'ampere' is no GPU architecture"),
    ],
)
def test_an_unknown_architecture_is_refused_at_once(
    arch: str,
    message: str,
    plugin: Command,
    project: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = toolkit(home, "12.6.85", 80, 87, 90)
    monkeypatch.setattr(native, "find_cuda", lambda directory=None: cuda)
    failed = plugin("build", "--arch", arch)
    assert failed.status == 2
    assert message in failed.err


def test_cross_compiling_without_the_compiler_names_the_package(
    plugin: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr(native, "find_program", lambda *names: Path("/usr/bin") / names[0])
    monkeypatch.setattr(native, "output_of", lambda *_: "cmake version 3.30")
    failed = plugin("build", "--cross", "aarch64")
    assert failed.status == 2
    assert "aarch64-linux-gnu-g++, the C++ compiler for aarch64, is missing." in failed.err
    assert "apt-get install g++-aarch64-linux-gnu" in failed.err


def test_where_the_targets_cuda_runtime_comes_from(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = toolkit(home / "cuda12", "12.6.85", 87)
    with pytest.raises(native.NativeError, match=r"CUDA 12\.6 .* has no libraries for aarch64"):
        _cross_libraries(old, "aarch64", Silent())
    own = home / "cuda12" / "targets" / "sbsa-linux" / "lib" / "libcudart_static.a"
    own.parent.mkdir(parents=True)
    own.touch()
    assert _cross_libraries(old, "aarch64", Silent()) is None

    new = toolkit(home / "cuda13", "13.0.88", 87)
    cached = home / "cache" / "dinat-deploy" / "cuda-13.0-aarch64"
    fails = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: no route to the index\n")
    with monkeypatch.context() as patch:
        patch.setattr("subprocess.run", lambda *_, **__: fails)
        with pytest.raises(native.NativeError, match="no route to the index") as error:
            _cross_libraries(new, "aarch64", Silent())
    assert "DINAT_CROSS_CUDA_LIBRARY_DIR" in error.value.cure
    assert not cached.exists()
    cached.mkdir(parents=True)
    (cached / "libcudart_static.a").touch()
    assert _cross_libraries(new, "aarch64", Silent()) == cached
    monkeypatch.setenv("DINAT_CROSS_CUDA_LIBRARY_DIR", str(home))
    assert _cross_libraries(new, "aarch64", Silent()) == home


def test_an_interrupted_build_leaves_nothing_and_ends_its_compilers(
    project: Path, home: Path, tmp_path: Path
) -> None:
    running = tmp_path / "running"
    (project / "plugins" / "CMakeLists.txt").write_text(
        "dinat_module(dinat_onnxruntime first.cpp)\nadd_custom_target(wait ALL COMMAND sh -c "
        f'"echo $$ > {running}; exec sleep 60" VERBATIM)\n'
    )
    code = (
        "import sys\nfrom pathlib import Path\nfrom dinat_deploy import native\n"
        f"native._package_directories = lambda: [Path({str(home / 'package')!r})]\n"
        "native.find_cuda = lambda directory=None: None\n"
        "sys.argv = ['dinat-deploy', 'plugin', 'build']\n"
        "from dinat_deploy.cli import main\nmain()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (running.exists() and running.read_text().strip()):
        assert time.monotonic() < deadline, "the build did not come to its last step"
        time.sleep(0.1)
    step = int(running.read_text())
    os.kill(step, 0)  # it is there
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted. Nothing was written." in shown
    assert left_over(home) == []
    assert list(tmp_path.glob("dinat-build-*")) == []
    deadline = time.monotonic() + 10  # ninja signals its steps and does not wait for them
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(step, 0)
            time.sleep(0.1)


def test_info_says_what_is_missing_and_how_to_build_it(
    plugin: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = plugin("info")
    assert shown.status == 0
    assert "CUDA compiler: none" in shown.out
    assert (
        "Note: onnxruntime and tensorrt missing. To build: pip install 'dinat-deploy[cuda]', then "
        "dinat-deploy plugin build." in shown.out
    )
    monkeypatch.setattr(native, "find_cxx", lambda: None)
    report = json.loads(plugin("info", "--json").out)
    assert report["libraries"] == {"onnxruntime": None, "tensorrt": None}
    assert report["cxx"] is None
    assert "install a C++ compiler (apt-get install g++), then" in report["remarks"][0]


def test_info_shows_what_there_is_and_what_does_not_fit(
    plugin: Command, project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin("build", "--output", "libs")
    path = home / "libs" / "libdinat_onnxruntime.so"
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(path.parent))
    info = native.library_info(path)
    report = json.loads(plugin("info", "--json").out)
    assert report["libraries"]["onnxruntime"]["sha256"] == info.sha256
    assert info.sha256[:12] in plugin("info").out

    monkeypatch.setattr(dinat_deploy, "__version__", "9.9.9")
    monkeypatch.setattr(native, "gpus", lambda: [("NVIDIA Test", 120)])
    with_code = {**vars(info), "cuda_code": ["sm_80"]}
    monkeypatch.setattr(native, "library_info", lambda _: native.LibraryInfo(**with_code))
    remarks = " ".join(json.loads(plugin("info", "--json").out)["remarks"])
    assert f"was built from dinat-deploy {info.version}; this is 9.9.9." in remarks
    assert "has sm_80, which NVIDIA Test (sm_120) cannot run." in remarks
    assert "plugin build --arch 120" in remarks


def test_a_foreign_library_in_our_place_is_a_remark(
    plugin: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = home / "libdinat_onnxruntime.so"
    source = "int f() { return 0; }"
    subprocess.run(
        [str(TOOLS[2]), "-x", "c++", "-", "-shared", "-o", foreign],
        input=source, text=True, check=True,
    )  # fmt: skip
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(home))
    shown = plugin("info", "--json")
    assert shown.status == 0
    report = json.loads(shown.out)
    assert report["libraries"]["onnxruntime"] is None
    assert report["remarks"][0] == f"{foreign} is no native library of dinat-deploy."
    assert next(check for check in doctor() if check.name == "operator library").found is None


def test_info_on_one_file(plugin: Command, project: Path, home: Path) -> None:
    plugin("build", "--output", "libs")
    path = Path("libs/libdinat_onnxruntime.so")
    data = bytearray(path.read_bytes())
    data[18:20] = (183).to_bytes(2, "little")
    path.write_bytes(data)
    shown = plugin("info", path)
    assert shown.status == 0
    assert "aarch64, glibc 2." in shown.out
    assert f"It is for aarch64; this machine is {platform.machine()}." in shown.out
    report = json.loads(plugin("info", path, "--json").out)
    assert report["machine"] == "aarch64"
    assert report["symbols"] == ["shown"]
    path.write_text("not a library")
    refused = plugin("info", path)
    assert refused.status == 2
    assert "is no native library of dinat-deploy" in refused.err


@pytest.mark.parametrize("name", ["build", "info"])
def test_every_command_explains_itself(name: str, plugin: Command) -> None:
    shown = plugin(name, "--help")
    assert shown.status == 0
    assert shown.out.startswith(f"Usage: dinat-deploy plugin {name}")
    assert "--json" in shown.out
