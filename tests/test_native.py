"""Finding native libraries and compilers, and reading what a library is without loading it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import sysconfig
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import dinat_deploy
from dinat_deploy import native
from dinat_deploy.elf import NotElf, SharedLibrary, _entries, machine
from dinat_deploy.errors import NativeError
from dinat_deploy.files import sha256
from dinat_deploy.native import LibraryInfo, find_cuda, find_library, library_info

ROOT = Path(__file__).parents[1]
NVCC = find_cuda()
CMAKE = native.find_program("cmake")
CXX = native.find_cxx()
needs_cxx = pytest.mark.skipif(CXX is None, reason="there is no C++ compiler")
needs_cmake = pytest.mark.skipif(CMAKE is None, reason="there is no cmake")
LABEL = '@dinat-library {"name": "dinat_tensorrt", "version": "1.2.3", "compilers": "GNU 12"}'


def compiled(path: Path, source: str, *options: str) -> Path:
    """A shared library made of C++ source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert CXX
    subprocess.run(
        [CXX, "-x", "c++", "-", "-shared", "-fPIC", "-o", path, *options],
        input=source, text=True, check=True,
    )  # fmt: skip
    return path


def labelled(label: str = LABEL) -> str:
    return f'extern "C" {{ extern const char text[]; const char text[] = {json.dumps(label)}; }}'


def program(path: Path, body: str) -> Path:
    """A shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def fake_nvcc(path: Path, version: str, *architectures: int) -> Path:
    codes = "\\n".join(f"sm_{number}" for number in architectures)
    return program(
        path,
        f'case "$1" in --version) echo "release {version}, V{version}.5";; '
        f'--list-gpu-code) printf "{codes}\\n";; *) exit 1;; esac',
    )


@pytest.fixture
def library(tmp_path: Path) -> Path:
    source = (
        labelled() + '\nextern "C" int shown() { return 1; }\n'
        '__attribute__((visibility("hidden"))) int unseen() { return 2; }\n'
        '#include <math.h>\nextern "C" double used(double x) { return pow(x, x); }\n'
    )
    return compiled(tmp_path / "native" / "libdinat_tensorrt.so", source, "-lm")


@needs_cxx
def test_a_library_says_what_it_is_without_being_loaded(library: Path) -> None:
    info = library_info(library)
    assert (info.name, info.version, info.compilers) == ("dinat_tensorrt", "1.2.3", "GNU 12")
    assert info.machine == platform.machine()
    assert info.sha256 == sha256(library)
    assert info.size == library.stat().st_size
    assert {"shown", "used", "text"} <= set(info.symbols)
    assert not any("unseen" in symbol for symbol in info.symbols)
    assert any(need.startswith("GLIBC_") for need in info.needs)
    assert info.cuda_code == []
    assert json.loads(json.dumps(info.to_dict()))["path"] == str(library)


@needs_cxx
@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs binutils")
def test_symbols_and_needed_versions_are_those_that_readelf_shows(library: Path) -> None:
    read = SharedLibrary(library)
    shown = subprocess.run(
        ["readelf", "--wide", "--dyn-syms", "--version-info", library],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rows = [line.split() for line in shown.splitlines()]
    symbols = {
        row[7] for row in rows
        if len(row) > 7 and row[4] in ("GLOBAL", "WEAK") and row[5] == "DEFAULT" and row[6].isdigit()
    }  # fmt: skip
    assert read.exported_symbols() == sorted(symbols)
    versions = {row[2] for row in rows if len(row) > 2 and row[1] == "Name:" and "_" in row[2]}
    assert set(read.needed_versions()) == versions


def test_versions_are_sorted_as_numbers(tmp_path: Path) -> None:
    from dinat_deploy.elf import _by_number

    assert sorted(["GLIBC_2.34", "GLIBC_2.4", "GLIBC_2.17"], key=_by_number)[-1] == "GLIBC_2.34"
    assert sorted(["sm_110", "sm_87"], key=_by_number) == ["sm_87", "sm_110"]


@pytest.mark.cuda
@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_gpu_code_is_what_nvcc_was_asked_for(tmp_path: Path) -> None:
    assert NVCC
    source = tmp_path / "kernel.cu"
    source.write_text("__global__ void kernel(float* x) { *x = 1; }")
    made = tmp_path / "kernel.so"
    subprocess.run(
        [NVCC.nvcc, "-shared", "-Xcompiler", "-fPIC", "-o", made, source, "-cudart", "none",
         "-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_75,code=sm_75",
         "-gencode", "arch=compute_90,code=[sm_90,compute_90]"],
        check=True,
    )  # fmt: skip
    assert SharedLibrary(made).cuda_code() == ["sm_75", "sm_80", "sm_90", "compute_90"]


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n" * 20, b"\x7fELF\x02\x01" * 40])
def test_what_is_no_library_is_refused_with_a_cure(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "libdinat_tensorrt.so"
    path.write_bytes(content)
    with pytest.raises(NativeError, match="is no native library of dinat-deploy") as error:
        library_info(path)
    assert "plugin build" in error.value.cure
    with pytest.raises(NativeError, match="No such file"):
        library_info(tmp_path / "missing.so")


@needs_cxx
def test_a_cut_off_or_foreign_library_is_refused(library: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.so"
    cut.write_bytes(library.read_bytes()[:3000])
    with pytest.raises(NativeError):
        library_info(cut)
    foreign = compiled(tmp_path / "foreign.so", "int f() { return 0; }")
    with pytest.raises(NativeError, match="is no native library"):
        library_info(foreign)
    with pytest.raises(NotElf):
        SharedLibrary(Path(__file__))


@needs_cxx
def test_a_damaged_library_is_refused_or_read_but_never_crashes_the_reader(
    library: Path, tmp_path: Path
) -> None:
    content, damaged = library.read_bytes(), tmp_path / "damaged.so"
    sections = SharedLibrary(library)._sections
    for section in (entry for entry in sections if entry.kind in (11, 0x6FFFFFFE)):
        for at in range(section.offset, section.offset + min(section.size, 96)):
            damaged.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
            with suppress(NativeError):
                library_info(damaged)


def test_gpu_code_of_size_zero_does_not_hold_the_reader() -> None:
    nothing = struct.pack("<IHHQ", 0xBA55ED50, 1, 0, 0)
    entry = struct.pack("<HHIQIIII", 2, 0, 0, 0, 0, 0, 0, 80)
    header = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entry))
    assert list(_entries(nothing)) == []
    assert "sm_80" in list(_entries(header + entry))
    assert list(_entries(struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 1 << 40) + entry[:20])) == []


@needs_cxx
def test_libraries_are_found_in_the_users_build_before_the_package(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, data = tmp_path / "package", tmp_path / "data"
    monkeypatch.delenv("DINAT_NATIVE_DIR", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(data))
    monkeypatch.setattr(dinat_deploy, "__path__", [str(package)])
    assert find_library("tensorrt") is None
    packaged = package / "_native" / library.name
    packaged.parent.mkdir(parents=True)
    shutil.copy(library, packaged)
    assert find_library("tensorrt") == packaged
    assert find_library("onnxruntime") is None
    built = data / "dinat-deploy" / dinat_deploy.__version__ / "native" / library.name
    built.parent.mkdir(parents=True)
    shutil.copy(library, built)
    assert find_library("tensorrt") == built
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(library.parent))
    assert find_library("tensorrt") == library
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path / "empty"))
    assert find_library("tensorrt") is None


@needs_cxx
def test_a_library_for_another_processor_is_not_found(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(library.parent))
    data = bytearray(library.read_bytes())
    data[18:20] = (183).to_bytes(2, "little")
    library.write_bytes(data)
    assert machine(library) == "aarch64"
    assert find_library("tensorrt") is None
    assert library_info(library).machine == "aarch64"


def _with_code(*codes: str) -> LibraryInfo:
    return LibraryInfo(Path("x"), "", 0, "dinat_tensorrt", "1", "x86_64", [*codes], [], [], "")


@pytest.mark.parametrize(
    ("codes", "gpu", "runs"),
    [
        (["sm_80"], 80, True),
        (["sm_80"], 86, True),  # a later minor version
        (["sm_86"], 80, False),
        (["sm_80"], 90, False),  # another major version, and no PTX
        (["sm_80", "compute_80"], 120, True),
        (["sm_90", "compute_90"], 89, False),
        (["sm_80"], 87, False),  # a Jetson wants its own
        (["sm_87"], 89, False),
        (["sm_87"], 87, True),
        (["sm_101"], 110, True),  # its name in CUDA 12
        ([], 80, False),
    ],
)
def test_which_gpus_a_library_runs_on(codes: list[str], gpu: int, runs: bool) -> None:
    assert replace(_with_code(*codes)).runs_on_gpu(gpu) is runs


def _without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)


@needs_cmake
def test_python_and_cmake_find_the_same_nvcc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place is searched before the next: taking one away leads to the one after it."""
    _without_cuda(monkeypatch)
    wheels = tmp_path / "site"
    places = {
        "CUDACXX": fake_nvcc(tmp_path / "a" / "my-nvcc", "13.1", 80),
        "CUDA_HOME": fake_nvcc(tmp_path / "b/bin/nvcc", "13.2", 80),
        "CUDA_PATH": fake_nvcc(tmp_path / "c/bin/nvcc", "13.3", 80),
        "PATH": fake_nvcc(tmp_path / "d/nvcc", "13.4", 80),
    }
    fake_nvcc(wheels / "nvidia/cu9/bin/nvcc", "9.9", 80)
    newest = fake_nvcc(wheels / "nvidia/cu13/bin/nvcc", "13.5", 80)
    python = program(tmp_path / "python3", f"echo {wheels}")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(wheels))
    monkeypatch.setenv("CUDACXX", str(places["CUDACXX"]))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "b"))
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "c"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'd'}:/usr/bin:/bin")

    def found_by_cmake() -> str:
        script = tmp_path / "find.cmake"
        script.write_text(
            f"list(PREPEND CMAKE_MODULE_PATH {ROOT / 'cmake'})\ninclude(DinatFindNvcc)\n"
            f"set(Python_EXECUTABLE {python})\ndinat_find_nvcc(found)\nmessage(STATUS ${{found}})\n"
        )
        assert CMAKE
        done = subprocess.run([CMAKE, "-P", script], capture_output=True, text=True, check=True)
        return done.stdout.strip().removeprefix("-- ")

    for variable, nvcc in places.items():
        found = find_cuda()
        assert found is not None
        assert found.nvcc == nvcc
        assert found_by_cmake() == str(nvcc)
        if variable == "PATH":
            monkeypatch.setenv("PATH", "/usr/bin:/bin")
        else:
            monkeypatch.delenv(variable)
    if not Path("/usr/local/cuda/bin/nvcc").exists() and not Path("/usr/bin/nvcc").exists():
        found = find_cuda()
        assert found is not None
        assert found.nvcc == newest
        assert found_by_cmake() == str(newest)


def test_a_toolkit_that_is_named_is_the_only_one_looked_at(tmp_path: Path) -> None:
    fake_nvcc(tmp_path / "cuda/bin/nvcc", "12.6", 80, 87, 90)
    found = find_cuda(tmp_path / "cuda")
    assert found is not None
    assert found.version == "12.6.5"
    assert found.release == (12, 6)
    assert found.architectures == [80, 87, 90]
    assert find_cuda(tmp_path / "elsewhere") is None
    program(tmp_path / "broken/bin/nvcc", "exit 1")
    assert find_cuda(tmp_path / "broken") is None


CUDA_12_6 = (12.6, 50, 72, 75, 80, 86, 87, 89, 90)
CUDA_12_9 = (12.9, 75, 80, 86, 87, 89, 90, 100, 101, 103, 120, 121)
CUDA_13 = (13.0, 75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)


def chosen_by_cmake(
    tmp_path: Path,
    cuda: tuple[float, ...],
    wanted: str = "",
    tools: dict[str, str] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run the choice of architectures with a made-up nvcc and made-up tools of the GPU's driver."""
    nvcc = fake_nvcc(tmp_path / "bin/nvcc", str(cuda[0]), *(int(number) for number in cuda[1:]))
    for name, body in (tools or {}).items():
        program(nvcc.parent / name, body)
    script = tmp_path / "choose.cmake"
    script.write_text(
        f"list(PREPEND CMAKE_MODULE_PATH {ROOT / 'cmake'})\ninclude(DinatCudaArchitectures)\n"
        f'set(DINAT_CUDA_ARCHITECTURES "{wanted}")\n'
        f'dinat_cuda_architectures({nvcc} found)\nmessage(STATUS "${{found}}")\n'
    )
    assert CMAKE
    return subprocess.run(
        [CMAKE, "-P", script],
        capture_output=True,
        text=True,
        env={"PATH": f"{nvcc.parent}:/bin:/usr/bin", **environment},
        check=False,
    )


NO_DRIVER = {"nvidia-smi": "exit 9", "__nvcc_device_query": "exit 1"}


@needs_cmake
@pytest.mark.parametrize(
    ("cuda", "wanted", "chosen"),
    [
        (CUDA_13, "all", "75-real;80-real;86-real;87-real;89-real;90-real;100-real;110-real;120"),
        (CUDA_12_9, "all", "75-real;80-real;86-real;87-real;89-real;90-real;100-real;101-real;120"),
        (CUDA_12_6, "all", "75-real;80-real;86-real;87-real;89-real;90"),
        (CUDA_13, "110,87", "87-real;110"),
        (CUDA_12_9, "87;110", "87-real;101"),
        (CUDA_12_6, "87", "87"),
        (CUDA_13, "80 80 103", "80-real;103"),
    ],
)  # fmt: skip
def test_architectures_end_with_ptx_of_the_newest(
    cuda: tuple[float, ...], wanted: str, chosen: str, tmp_path: Path
) -> None:
    done = chosen_by_cmake(tmp_path, cuda, wanted, NO_DRIVER)
    assert done.stdout.strip() == f"-- {chosen}", done.stderr


@needs_cmake
@pytest.mark.parametrize(
    ("tools", "chosen"),
    [
        (NO_DRIVER, "80"),
        ({"nvidia-smi": "echo 8.9"}, "89"),
        ({"nvidia-smi": "printf '8.6\\n9.0\\n8.6\\n'"}, "86-real;90"),
        ({"nvidia-smi": "echo '[N/A]'", "__nvcc_device_query": "echo 87"}, "87"),  # a Jetson
        ({"nvidia-smi": "echo 7.0", "__nvcc_device_query": "echo 70"}, "80"),
        (
            {"nvidia-smi": "echo 13.0", "__nvcc_device_query": "exit 1"},
            "80",
        ),  # unknown to this nvcc
    ],
)
def test_the_default_architecture_is_that_of_the_gpu_here(
    tools: dict[str, str], chosen: str, tmp_path: Path
) -> None:
    done = chosen_by_cmake(tmp_path, CUDA_13, tools=tools)
    assert done.stdout.strip() == f"-- {chosen}", done.stderr


@needs_cmake
def test_architectures_can_come_from_the_environment(tmp_path: Path) -> None:
    chosen = {"DINAT_CUDA_ARCHITECTURES": "86,90"}
    assert chosen_by_cmake(tmp_path, CUDA_13, **chosen).stdout.strip() == "-- 86-real;90"
    assert chosen_by_cmake(tmp_path, CUDA_13, "89", **chosen).stdout.strip() == "-- 89"


@needs_cmake
@pytest.mark.parametrize(
    ("cuda", "wanted", "message"),
    [
        (CUDA_12_6, "87,110", "Architecture 110 is unknown to"),
        (CUDA_12_6, "110", "75, 80, 86, 87, 89, 90"),
        (CUDA_13, "60", "has '60'; expected numbers from 75"),
        (CUDA_13, "sm_90", "has 'sm_90'"),
    ],
)
def test_an_unknown_architecture_names_both_sides(
    cuda: tuple[float, ...], wanted: str, message: str, tmp_path: Path
) -> None:
    done = chosen_by_cmake(tmp_path, cuda, wanted, NO_DRIVER)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())


def test_gpus_are_what_the_drivers_tool_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.gpus() == []
    tool = program(tmp_path / "nvidia-smi", "echo 'NVIDIA Test, Rev. 2, 8.9'; echo 'Orin, [N/A]'")
    assert native.gpus() == [("NVIDIA Test, Rev. 2", 89), ("Orin", None)]
    program(tool, "exit 9")
    assert native.gpus() == []


def test_the_sources_are_a_checkouts_or_the_copy_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native.source_directory() == ROOT
    package = tmp_path / "site" / "dinat_deploy"
    monkeypatch.setattr(dinat_deploy, "__path__", [str(package)])
    assert native.source_directory() is None
    copy = package / "_native" / "source"
    (copy / "plugins").mkdir(parents=True)
    (copy / "CMakeLists.txt").touch()
    assert native.source_directory() == copy
    monkeypatch.setattr(dinat_deploy, "__path__", [str(package), str(ROOT / "dinat_deploy")])
    assert native.source_directory() == ROOT  # an editable installation


def test_looking_for_libraries_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom dinat_deploy.native import find_library, find_cuda\n"
        "find_library('tensorrt')\n"
        "heavy = {'numpy', 'torch', 'onnx', 'tensorrt', 'tensorrt_rtx', 'pydantic', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
