"""Run an ONNX file in ONNX Runtime behind the session protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinat_deploy.errors import BundleError, DinatDeployError, MissingDependencyError
from dinat_deploy.session.base import Feeds, FloatArray

if TYPE_CHECKING:
    import onnxruntime

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


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

    Inputs are converted to the model's types, half-precision outputs to float32.

    Args:
        taps: tensors of the graph that are returned beside its outputs.
        threads: threads of one run; 0 leaves the choice to ONNX Runtime.

    Raises:
        BundleError: ONNX Runtime cannot load the file.
    """

    def __init__(self, path: str | Path, *, taps: Sequence[str] = (), threads: int = 0) -> None:
        runtime = import_onnxruntime()
        self.name = f"ONNX Runtime {runtime.__version__}"
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        path = Path(path)
        try:
            self._session = self._load(runtime, options, path, taps)
        except DinatDeployError:
            raise
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}",
                "If it was exported with --body none, it needs a runtime with our operator.",
            ) from None

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
        names = [output.name for output in self._session.get_outputs()]
        converted = {
            info.name: np.ascontiguousarray(feeds[info.name], _TYPES.get(info.type, np.float32))
            for info in self._session.get_inputs()
        }
        try:
            results = self._session.run(names, converted)
        except Exception as error:
            shapes = {name: list(array.shape) for name, array in converted.items()}
            raise BundleError(
                f"ONNX Runtime failed on inputs {shapes}: {str(error).splitlines()[0]}"
            ) from None
        return {
            name: np.asarray(result, np.float32)
            for name, result in zip(names, results, strict=True)
        }


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
