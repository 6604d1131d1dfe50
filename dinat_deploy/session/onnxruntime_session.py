"""Run an ONNX file in ONNX Runtime behind the session protocol."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinat_deploy.errors import BundleError, DinatDeployError, MissingDependencyError
from dinat_deploy.native import find_library
from dinat_deploy.session.base import Feeds, FloatArray

if TYPE_CHECKING:
    import onnxruntime

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
_BFLOAT16 = "tensor(bfloat16)"  # NumPy has no such type

BUILD_THE_LIBRARY = "Build it with `dinat-deploy plugin build`; any C++17 compiler will do."


def import_onnxruntime() -> Any:
    """The ``onnxruntime`` module; raises MissingDependencyError if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependencyError(
            "Running an ONNX file needs onnxruntime, which is not installed.",
            "pip install onnxruntime",
        ) from None
    return onnxruntime


class OnnxRuntimeSession:
    """An ONNX file on the CPU.

    The operator's nodes run in our library where it is built (several times faster), and by their
    body in standard operators otherwise. Inputs are converted to the model's types, 16-bit outputs
    to float32.

    Args:
        taps: tensors of the graph that are returned beside its outputs.
        threads: threads of one run; 0 leaves the choice to ONNX Runtime.
        custom_op: True or the library's path demand the library, False forbids it, None takes it
            if it is there and ONNX Runtime accepts it.

    Attributes:
        name: the runtime, its version, and whether the library runs the operator.
        library: the operator's library in use, or None.
        notes: what did not work, and was done without.

    Raises:
        BundleError: ONNX Runtime cannot load the file.
        MissingDependencyError: the library is demanded, and is missing or not accepted.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        taps: Sequence[str] = (),
        threads: int = 0,
        custom_op: bool | Path | None = None,
    ) -> None:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.notes: list[str] = []
        self.library = self._register(options, custom_op)
        self.name = f"ONNX Runtime {runtime.__version__}"
        if self.library:
            self.name += " with the dinat operator"
        path = Path(path)
        try:
            self._session = self._load(runtime, options, path, taps)
        except DinatDeployError:
            raise
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}",
                "If it was exported with --body none, it needs the operator's library. "
                + BUILD_THE_LIBRARY
                if not self.library and "dinat:" in str(error)
                else "",
            ) from None
        types = [info.type for info in (*self._session.get_inputs(), *self._session.get_outputs())]
        self._run = self._run_bfloat16 if _BFLOAT16 in types else self._run_arrays

    def _register(self, options: Any, custom_op: bool | Path | None) -> Path | None:
        if custom_op is False:
            return None
        library = custom_op if isinstance(custom_op, Path) else find_library("onnxruntime")
        demanded = custom_op is not None
        if library is None or not library.is_file():
            if demanded:
                where = f"{library} does not exist" if library else "it is not built"
                raise MissingDependencyError(
                    f"The operator's library for ONNX Runtime is needed, and {where}.",
                    BUILD_THE_LIBRARY,
                )
            return None
        try:
            # A name without a slash would be looked for among the system's libraries.
            options.register_custom_ops_library(str(library.absolute()))
        except Exception as error:
            said = str(error).splitlines()[0].rstrip(".")
            reason = f"ONNX Runtime does not accept {library}: {said}."
            if demanded:
                raise MissingDependencyError(reason, BUILD_THE_LIBRARY) from None
            self.notes.append(f"{reason} The operator runs by its body instead.")
            return None
        return library

    @staticmethod
    def _load(
        runtime: Any, options: Any, path: Path, taps: Sequence[str]
    ) -> onnxruntime.InferenceSession:
        providers = ["CPUExecutionProvider"]
        if not taps:
            return runtime.InferenceSession(str(path), options, providers=providers)
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.parent)
        )
        content = _with_outputs(path, taps)
        return runtime.InferenceSession(content, options, providers=providers)

    def run(self, feeds: Feeds) -> dict[str, FloatArray]:
        inputs = [info.name for info in self._session.get_inputs()]
        if missing := [name for name in inputs if name not in feeds]:
            raise BundleError(
                f"The input {missing[0]} is missing; the model takes {', '.join(inputs)}, and "
                f"{', '.join(feeds) or 'nothing'} was given."
            )
        try:
            return self._run(feeds)
        except Exception as error:
            shapes = {name: list(np.shape(feeds[name])) for name in inputs}
            raise BundleError(
                f"ONNX Runtime failed on inputs {shapes}: {str(error).splitlines()[0]}"
            ) from None

    def _run_arrays(self, feeds: Feeds) -> dict[str, FloatArray]:
        names = [output.name for output in self._session.get_outputs()]
        converted = {
            info.name: np.ascontiguousarray(feeds[info.name], _TYPES.get(info.type, np.float32))
            for info in self._session.get_inputs()
        }
        results = self._session.run(names, converted)
        return {
            name: np.asarray(result, np.float32)
            for name, result in zip(names, results, strict=True)
        }

    def _run_bfloat16(self, feeds: Feeds) -> dict[str, FloatArray]:
        """The same through values of the runtime, which may hold bfloat16."""
        runtime = import_onnxruntime()
        values: Mapping[str, Any] = {
            info.name: _value(runtime, feeds[info.name], info.type)
            for info in self._session.get_inputs()
        }
        names = [output.name for output in self._session.get_outputs()]
        results = self._session.run_with_ort_values(names, values)
        return {name: _array(result) for name, result in zip(names, results, strict=True)}


def _value(runtime: Any, array: FloatArray, kind: str) -> Any:
    if kind != _BFLOAT16:
        converted = np.ascontiguousarray(array, _TYPES.get(kind, np.float32))
        return runtime.OrtValue.ortvalue_from_numpy(converted)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # ties to even
    element = 16  # TensorProto.BFLOAT16
    return runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(rounded, element)


def _array(value: Any) -> FloatArray:
    if value.data_type() != _BFLOAT16:
        return np.asarray(value.numpy(), np.float32)
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.zeros(shape, np.float32)
    words = ctypes.string_at(value.data_ptr(), 2 * count)
    bits = np.frombuffer(words, np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32).reshape(shape)


def _with_outputs(path: Path, names: Sequence[str]) -> bytes:
    """The model with more of its tensors as outputs."""
    try:
        import onnx
    except ImportError:
        raise MissingDependencyError(
            "Comparing layers of an ONNX file needs onnx, which is not installed.",
            "pip install onnx",
        ) from None
    model = onnx.load(str(path), load_external_data=False)
    present = {output for node in model.graph.node for output in node.output}
    unknown = [name for name in names if name not in present]
    if unknown:
        raise BundleError(
            f"{path} has no tensor {unknown[0]} ({len(unknown)} of {len(names)} are missing).",
            "The file was changed after its export; export it again.",
        )
    have = {output.name for output in model.graph.output}
    types = {info.name: info for info in model.graph.value_info}
    for name in names:
        if name not in have:
            model.graph.output.append(types.get(name, onnx.ValueInfoProto(name=name)))
    return model.SerializeToString()
