"""``plugin build``: make the native libraries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

from dinat_deploy import native
from dinat_deploy.errors import NativeError
from dinat_deploy.files import whole_directory
from dinat_deploy.native import CudaCompiler, LibraryInfo
from dinat_deploy.progress import Progress, Silent

PROCESSORS = ("aarch64",)
DEFAULT_JETSONS = (87, 110)
_OLDEST_CMAKE = (3, 24)
_WHEN_CUDA_IS_MISSING = (
    "pip install 'dinat-deploy[cuda]' brings one; or set CUDA_HOME, or give --cuda."
)
_STEP = re.compile(r"\[(\d+)/(\d+)\] ")
_Log = Callable[[str], None]


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    Attributes:
        path: the folder.
        found: whether this machine's sessions find the folder by themselves.
        cuda: version of nvcc, or None if it was built without.
    """

    path: Path
    found: bool
    cuda: str | None
    libraries: list[LibraryInfo]

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "found": self.found,
            "cuda": self.cuda,
            "libraries": [library.to_dict() for library in self.libraries],
        }


@dataclass
class _Build:
    """Everything that decides what CMake is told."""

    sources: Path
    cmake: Path
    ninja: Path
    cuda: CudaCompiler | None
    architectures: str
    cross: str | None
    cross_libraries: Path | None
    jobs: int

    def configure(self, folder: Path) -> list[str | Path]:
        command: list[str | Path] = [
            self.cmake, "-S", self.sources, "-B", folder, "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={self.ninja}", "-DCMAKE_BUILD_TYPE=Release", "-DDINAT_TESTS=OFF",
            f"-DDINAT_CUDA={'ON' if self.cuda else 'OFF'}",
        ]  # fmt: skip
        if self.cuda:
            command.append(f"-DDINAT_NVCC={self.cuda.nvcc}")
            command.append(f"-DDINAT_CUDA_ARCHITECTURES={self.architectures}")
        if self.cross:
            toolchain = self.sources / "cmake" / f"{self.cross}-linux-gnu.cmake"
            command.append(f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")
        if self.cross_libraries:
            command.append(f"-DDINAT_CROSS_CUDA_LIBRARY_DIR={self.cross_libraries}")
        return command


def build_plugins(
    *,
    architectures: Sequence[str] = (),
    cross: str | None = None,
    cuda: str | Path | None = None,
    output: str | Path | None = None,
    jobs: int | None = None,
    log: _Log | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Compile the native libraries into a folder that appears whole or not at all.

    Args:
        architectures: GPUs to compile for, such as ``87`` for 8.7, or ``all``; none means the GPU
            in this machine.
        cross: another processor to compile for.
        cuda: a CUDA toolkit; None takes what :func:`dinat_deploy.native.find_cuda` finds, and
            leaves out what needs CUDA if it finds none.
        output: the folder; None means where sessions look, or ``out/native-aarch64``.
        jobs: compilers at a time; None goes by the number of cores and the memory.
        log: receives every line that the build prints.

    Raises:
        NativeError: a compiler is missing, does not know an architecture, or fails.
        OutputError: the folder cannot be written, or holds something else.
    """
    progress = progress or Silent()
    with progress.stage("Looking for compilers"):
        plan = _plan(architectures, cross, Path(cuda) if cuda else None, jobs)
    if plan.cuda is None:
        progress.note(f"No CUDA compiler, so no TensorRT plugin. {_WHEN_CUDA_IS_MISSING}")
    elif cross:
        plan.cross_libraries = _cross_libraries(plan.cuda, cross, progress)
    target = _target(output, cross)
    with whole_directory(target, _holds_libraries_only) as partial, _build_folder() as folder:
        with _logged(log) as record:
            with progress.stage("Configuring"):
                _run(plan.configure(folder), record)
            _compile(plan, folder, record, progress)
            _run([plan.cmake, "--install", folder, "--prefix", partial], record)
        names = sorted(path.name for path in partial.glob("*.so"))
    return BuildReport(
        path=target.resolve(),
        found=target.resolve() in native.library_directories(),
        cuda=plan.cuda.version if plan.cuda else None,
        libraries=[native.library_info(target / name) for name in names],
    )


def _plan(
    architectures: Sequence[str], cross: str | None, cuda: Path | None, jobs: int | None
) -> _Build:
    sources = native.source_directory()
    if sources is None:
        raise NativeError(
            "The native sources are not in this installation of dinat-deploy.",
            "Install it with pip, from a checkout or a wheel.",
        )
    cmake = native.find_program("cmake")
    if cmake is None or _version(cmake) < _OLDEST_CMAKE:
        found = "CMake is missing" if cmake is None else f"{cmake} is older than 3.24"
        raise NativeError(f"{found}.", "pip install cmake")
    ninja = native.find_program("ninja", "ninja-build")
    if ninja is None:
        raise NativeError("Ninja, which runs the compilers, is missing.", "pip install ninja")
    _require_cxx(cross)
    compiler = native.find_cuda(cuda)
    if compiler is None and (cuda or architectures):
        where = f" in {cuda / 'bin'}" if cuda else ""
        raise NativeError(f"No CUDA compiler (nvcc) was found{where}.", _WHEN_CUDA_IS_MISSING)
    wanted = [_architecture(name) for name in architectures]
    if compiler and cross and not wanted:
        wanted = [str(number) for number in DEFAULT_JETSONS if compiler.supports(number)]
    if compiler:
        _check_architectures(wanted, compiler)
    return _Build(
        sources=sources,
        cmake=cmake,
        ninja=ninja,
        cuda=compiler,
        architectures=",".join(wanted),
        cross=cross,
        cross_libraries=None,
        jobs=jobs or _default_jobs(),
    )


def _version(program: Path) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", native.output_of(program, "--version") or "")
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _require_cxx(cross: str | None) -> None:
    if cross is None and native.find_cxx() is None:
        raise NativeError(
            "There is no C++ compiler.", "On Debian or Ubuntu: apt-get install g++ (or set CXX)."
        )
    if cross and not shutil.which(f"{cross}-linux-gnu-g++"):
        raise NativeError(
            f"{cross}-linux-gnu-g++, the C++ compiler for {cross}, is missing.",
            f"On Debian or Ubuntu: apt-get install g++-{cross}-linux-gnu",
        )


def _architecture(name: str) -> str:
    """``8.7`` and ``sm_87`` as ``87``, like ``build --arch`` takes them; others as they are."""
    found = re.fullmatch(r"(?:sm_?|compute_?)?(\d{1,2})\.?(\d)", name.strip().lower())
    return found[1] + found[2] if found else name


def _check_architectures(wanted: Sequence[str], compiler: CudaCompiler) -> None:
    if list(wanted) == ["all"]:
        return
    for name in wanted:
        if not name.isdigit() or int(name) < 75:
            raise NativeError(
                f"{name!r} is no GPU architecture that the kernels can be built for.",
                "Write compute capabilities from 7.5 up, such as 87,110; or all.",
            )
        if not compiler.supports(int(name)):
            known = ", ".join(str(number) for number in compiler.architectures)
            raise NativeError(
                f"Architecture {name} is unknown to nvcc {compiler.version} ({compiler.nvcc}), "
                f"which compiles for {known}.",
                "Choose one of these, or another toolkit with --cuda.",
            )


def _default_jobs() -> int:
    """One for each core, and for each 2 GB of memory, which one nvcc may need."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(os.cpu_count() or 1, memory // 2_000_000_000))


def _target(output: str | Path | None, cross: str | None) -> Path:
    if output is not None:
        return Path(output)
    return Path("out") / f"native-{cross}" if cross else native.user_directory()


def _holds_libraries_only(folder: Path) -> bool:
    return all(re.fullmatch(r"libdinat_\w+\.so", path.name) for path in folder.iterdir())


def _cross_libraries(cuda: CudaCompiler, cross: str, progress: Progress) -> Path | None:
    """Where the target's static CUDA runtime is; None if the toolkit itself has it."""
    given = os.environ.get("DINAT_CROSS_CUDA_LIBRARY_DIR")
    if given:
        return Path(given).expanduser().resolve()
    targets = cuda.nvcc.resolve().parent.parent / "targets"
    if any((targets / f"{name}-linux/lib/libcudart_static.a").exists() for name in (cross, "sbsa")):
        return None
    major, minor = cuda.release
    cached = native.cache_directory() / f"cuda-{major}.{minor}-{cross}"
    if not (cached / "libcudart_static.a").exists():
        if major < 13:
            raise NativeError(
                f"The CUDA {major}.{minor} toolkit at {cuda.nvcc} has no libraries for {cross}.",
                "Install NVIDIA's cross package for it, or set DINAT_CROSS_CUDA_LIBRARY_DIR to a "
                f"folder with the libcudart_static.a of an {cross} toolkit.",
            )
        with progress.stage(f"Downloading nvidia-cuda-runtime {major}.{minor} for {cross}"):
            _download_runtime(f"{major}.{minor}", cross, cached)
    return cached


def _download_runtime(release: str, cross: str, target: Path) -> None:
    """Take the static libraries out of PyPI's wheel for another processor."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        whole_directory(target, lambda _: True) as partial,
    ):
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
            "--platform", f"manylinux2014_{cross}", "--dest", scratch,
            f"nvidia-cuda-runtime=={release}.*",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise NativeError(
                f"The CUDA runtime for {cross} could not be downloaded: {reason}",
                "Set DINAT_CROSS_CUDA_LIBRARY_DIR to a folder with libcudart_static.a of an "
                f"{cross} CUDA {release} toolkit.",
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in wheel.namelist():
                if name.endswith(".a"):
                    (partial / Path(name).name).write_bytes(wheel.read(name))


@contextmanager
def _build_folder() -> Iterator[Path]:
    """A scratch folder for CMake, gone afterwards."""
    # An interrupted ninja does not wait for its compilers: one may still be writing.
    with tempfile.TemporaryDirectory(prefix="dinat-build-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


class _Record:
    """The log of one build: kept in a file, and passed on line by line."""

    def __init__(self, path: Path, stream: IO[str], log: _Log | None) -> None:
        self.path = path
        self._stream = stream
        self._log = log
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self.lines.append(line)
        self._stream.write(line + "\n")
        if self._log:
            self._log(line)


@contextmanager
def _logged(log: _Log | None) -> Iterator[_Record]:
    """A log file that stays if the build fails."""
    folder = native.cache_directory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="plugin-build-", suffix=".log", dir=folder)
    except OSError as error:
        raise NativeError(
            f"{folder} cannot be written: {error.strerror}.",
            "Set XDG_CACHE_HOME to another folder.",
        ) from None
    path = Path(name)
    with os.fdopen(handle, "w") as stream:
        try:
            yield _Record(path, stream, log)
        except NativeError:
            raise  # names the log
        except BaseException:
            path.unlink()
            raise
    path.unlink()


def _output(command: Sequence[str | Path], record: _Record) -> Generator[str, None, None]:
    """Run a command and yield its lines.

    Raises:
        NativeError: it failed; the log stays.
    """
    record.add("$ " + " ".join(str(part) for part in command))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            record.add(line.rstrip("\n"))
            yield line
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()  # ninja and cmake end their compilers
            process.wait()
        process.stdout.close()
    if status:
        raise _failure(record)


def _run(command: Sequence[str | Path], record: _Record) -> None:
    for _ in _output(command, record):
        pass


def _compile(plan: _Build, folder: Path, record: _Record, progress: Progress) -> None:
    """Run ninja; its ``[3/12]`` become steps of the progress."""
    command: list[str | Path] = [plan.ninja, "-C", folder, f"-j{plan.jobs}"]
    with closing(_output(command, record)) as lines:
        total = next((step[1] for step in map(_step, lines) if step), 0)
        finished = 1
        for number in progress.track(range(1, total + 1), "Compiling"):
            while number > finished or number == total:
                line = next(lines, None)  # the last step waits for the end: a failure shows there
                if line is None:
                    break
                if step := _step(line):
                    finished = step[0]


def _step(line: str) -> tuple[int, int] | None:
    found = _STEP.match(line)
    return (int(found[1]), int(found[2])) if found else None


# What a compiler says, and what to do about it.
_CURES = (
    (
        r"unsupported GNU version",
        "This nvcc is too old for the C++ compiler: install an older g++ and set CUDAHOSTCXX to it "
        "(CUDAHOSTCXX=g++-12), or use a newer CUDA toolkit.",
    ),
    (r"No space left on device", "Free disk space, or set TMPDIR to another place."),
    (r"Killed|out of memory|cannot allocate", "The machine ran out of memory: try --jobs 1."),
)


def _failure(record: _Record) -> NativeError:
    text = "\n".join(record.lines)
    cures = [cure for pattern, cure in _CURES if re.search(pattern, text)]
    faults = (n for n, line in enumerate(record.lines) if re.search(r"\berror\b", line, re.I))
    at = next(faults, len(record.lines) - 1)
    first = record.lines[at].strip()
    if first.startswith("CMake Error"):  # what is wrong stands indented below it
        below = takewhile(lambda line: not line or line[0] == " ", record.lines[at + 1 :])
        first = " ".join([first, *" ".join(below).split()])
    log = f"The log is {record.path}."
    return NativeError(f"The build failed: {first}", " ".join([*cures[:1], log]))
