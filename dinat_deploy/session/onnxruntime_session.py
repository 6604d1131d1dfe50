"""Run an ONNX file in ONNX Runtime behind the session protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinat_deploy.errors import (
    BundleError,
    ConfigError,
    DinatDeployError,
    MissingDependencyError,
    NativeError,
)
from dinat_deploy.native import find_library, library_info
from dinat_deploy.session import onnxruntime_providers as providers
from dinat_deploy.session.base import Feeds, FloatArray, PreparedRun, RunOptions
from dinat_deploy.session.measuring import MemoryGain
from dinat_deploy.session.onnxruntime_values import BFLOAT16, converted, to_array, to_value

if TYPE_CHECKING:
    import onnxruntime

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


@dataclass(frozen=True)
class LoadOptions:
    """How the file is loaded, which ONNX Runtime fixes when it makes a session.

    Attributes:
        spin: whether its threads may go on spinning after a run, as they do by default: for some
            40 ms, in which they take the cores from whatever else runs.
        cuda_graph: record the kernels of a run and replay them.
        profile: prefix of the file with the times of nodes; None measures none.
        optimized: file to write the optimized model to.
    """

    spin: bool = True
    cuda_graph: bool = False
    profile: Path | None = None
    optimized: Path | None = None


class OnnxRuntimeSession:
    """An ONNX file on the CPU or a GPU.

    The operator's nodes run in our library where it is built (several times faster), and by their
    body in standard operators otherwise. Inputs are converted to the model's types, 16-bit outputs
    to float32.

    Args:
        taps: tensors of the graph that are returned beside its outputs.
        threads: CPU threads of one run; 0 leaves the choice to ONNX Runtime.
        custom_op: True or the library's path demand the library, False forbids it, None takes it
            if it is there, has code for the provider, and ONNX Runtime accepts it. The TensorRT
            providers cannot use it.
        provider: ``cpu``, ``cuda``, ``tensorrt`` or ``tensorrt-rtx``. What they do not take runs
            on the CPU; if the provider itself does not start, there is an error.
        device: number of the GPU.
        plugin_library: of TensorRT, which runs the operator under the provider ``tensorrt``.

    Attributes:
        name: the runtime, its version, its provider, and what runs the operator.
        device: ``CPU`` or the name of the GPU.
        path: the ONNX file.
        provider, gpu: as asked.
        library: the operator's library in use, or None.
        notes: what did not work, and was done without.
        memory_gain: of the process by loading the model.

    Raises:
        BundleError: ONNX Runtime cannot load the file.
        MissingDependencyError: the library is demanded, and is missing or not accepted; or the
            provider cannot run here.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        taps: Sequence[str] = (),
        threads: int = 0,
        custom_op: bool | Path | None = None,
        provider: str = "cpu",
        device: int = 0,
        plugin_library: Path | None = None,
    ) -> None:
        if provider not in providers.PROVIDERS:
            raise ConfigError(
                f"ONNX Runtime has no provider {provider!r}.",
                f"There are {', '.join(providers.PROVIDERS)}.",
            )
        self._runtime = import_onnxruntime()
        self.path = Path(path)
        self.provider = provider
        self.notes: list[str] = []
        self._taps = tuple(taps)
        self._threads = threads
        self.gpu = device
        self._plugin = plugin_library if provider == "tensorrt" else None
        self._loaded_with = LoadOptions()
        self.memory_gain = MemoryGain()
        self.library = self._choose_library(custom_op)
        with self.memory_gain.watched():
            self._session: onnxruntime.InferenceSession | None = self.load(self._loaded_with)
        self.name = self._describe()
        self.device = "CPU" if provider == "cpu" else providers.gpu_names()[device]
        if provider != "cpu":
            counts = providers.nodes_by_provider(self._session)
            self.notes += filter(None, [providers.note_of_strays(counts, provider)])

    def _describe(self) -> str:
        title = "" if self.provider == "cpu" else f" on {providers.TITLES[self.provider]}"
        name = f"ONNX Runtime {self._runtime.__version__}{title}"
        if self.library:
            return f"{name} with the dinat operator"
        return f"{name} with the dinat plugin" if self._plugin else name

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """ONNX Runtime's own session; raises BundleError if this one is closed."""
        if self._session is None:
            raise BundleError(f"The session of {self.path} is closed.", "Open it again.")
        return self._session

    def close(self) -> None:
        self._session = None

    def reload(self, options: LoadOptions) -> None:
        """Load the file again with other options, unless it is loaded with them already."""
        if options != self._loaded_with:
            with self.memory_gain.watched():
                self._session = None
                self._session = self.load(options)
            self._loaded_with = options

    def load(self, load: LoadOptions) -> onnxruntime.InferenceSession:
        """A session of ONNX Runtime's own; several may live at once.

        Raises:
            BundleError: ONNX Runtime cannot load the file.
            MissingDependencyError: the provider cannot run here.
        """
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        if not load.spin:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        if load.profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(load.profile)
        if load.optimized is not None:
            options.optimized_model_filepath = str(load.optimized)
        if self.library is not None:
            options.register_custom_ops_library(str(self.library.absolute()))
        if self.provider != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        chosen = providers.choose(
            self._runtime, options, self.provider, self._provider_options(load)
        )
        try:
            session = self._runtime.InferenceSession(
                self._content(options),
                options,
                providers=chosen.providers,
                enable_fallback=0,
            )
        except DinatDeployError:
            raise
        except Exception as error:
            said = str(error).splitlines()[0]
            raise BundleError(
                f"ONNX Runtime cannot load {self.path}: {said}", self._cure_of(said)
            ) from None
        providers.confirm(session, chosen)
        return session

    def _cure_of(self, said: str) -> str:
        """What helps with a file that ONNX Runtime does not load."""
        if not self.library and "dinat:" in said:
            return (
                "If it was exported with --body none, it needs the operator's library. "
                + BUILD_THE_LIBRARY
            )
        if "NOT_IMPLEMENTED" in said and self.path.name.startswith("model.bf16"):
            return (
                f"It has few operators for bfloat16. Run it in PyTorch as torch:{self.path}, or "
                "build an engine from it."
            )
        return ""

    def _provider_options(self, load: LoadOptions) -> providers.ProviderOptions:
        cache = None
        if self.provider in ("tensorrt", "tensorrt-rtx") and self.path.is_file():
            version = self._runtime.__version__
            cache = providers.engine_cache(self.provider, version, self.path)  # type: ignore[arg-type]
        return providers.ProviderOptions(self.gpu, load.cuda_graph, cache, self._plugin)

    def _content(self, options: Any) -> str | bytes:
        """The file, or what becomes of it in memory."""
        if not self._taps and self._plugin is None:
            return str(self.path)
        from dinat_deploy.session import onnxruntime_model as changes

        purpose = "Comparing layers of an ONNX file" if self._taps else "The plugin of TensorRT"
        model = changes.load(self.path, purpose)
        changes.add_outputs(model, self._taps, self.path)
        if self._plugin is not None and not changes.name_plugins(model):
            self.notes.append(f"{self.path} has no attention nodes that a plugin could compute.")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.path.parent)
        )
        return model.SerializeToString()

    def _choose_library(self, custom_op: bool | Path | None) -> Path | None:
        if custom_op is False:
            return None
        demanded = custom_op is not None
        if self.provider not in ("cpu", "cuda"):
            if demanded:
                raise ConfigError(
                    f"The {providers.TITLES[self.provider]} provider cannot use the operator's "
                    "library for ONNX Runtime.",
                    "It runs the operator by its body, or TensorRT by its own plugin.",
                )
            return None
        library = custom_op if isinstance(custom_op, Path) else find_library("onnxruntime")
        if library is None or not library.is_file():
            if demanded:
                where = f"{library} does not exist" if library else "it is not built"
                raise MissingDependencyError(
                    f"The operator's library for ONNX Runtime is needed, and {where}.",
                    BUILD_THE_LIBRARY,
                )
            return None
        reason = self._refusal(library)
        if reason is None:
            return library
        if demanded:
            raise MissingDependencyError(reason, BUILD_THE_LIBRARY)
        self.notes.append(f"{reason} The operator runs by its body instead.")
        return None

    def _refusal(self, library: Path) -> str | None:
        """Why a library cannot be used."""
        try:
            # A name without a slash would be looked for among the system's libraries.
            self._runtime.SessionOptions().register_custom_ops_library(str(library.absolute()))
        except Exception as error:
            said = str(error).splitlines()[0].rstrip(".")
            return f"ONNX Runtime does not accept {library}: {said}."
        if self.provider == "cuda":
            # Its CPU kernels would win over the body, and take every map off the GPU.
            try:
                has_code = bool(library_info(library).cuda_code)
            except NativeError:
                has_code = False
            if not has_code:
                return f"{library} was built without CUDA."
        return None

    def run(self, feeds: Feeds) -> dict[str, FloatArray]:
        session = self.session
        self.check_feeds(feeds)
        try:
            return self._run(session, feeds)
        except DinatDeployError:
            raise
        except Exception as error:
            raise self.failure(feeds, error) from None

    def check_feeds(self, feeds: Feeds) -> None:
        """Raise :class:`BundleError` if an input is missing."""
        inputs = [info.name for info in self.session.get_inputs()]
        if missing := [name for name in inputs if name not in feeds]:
            raise BundleError(
                f"The input {missing[0]} is missing; the model takes {', '.join(inputs)}, and "
                f"{', '.join(feeds) or 'nothing'} was given."
            )

    def failure(self, feeds: Feeds, error: Exception) -> BundleError:
        """What to raise when ONNX Runtime failed on these inputs."""
        shapes = {info.name: list(np.shape(feeds[info.name])) for info in self.session.get_inputs()}
        return BundleError(f"ONNX Runtime failed on inputs {shapes}: {str(error).splitlines()[0]}")

    def _run(self, session: onnxruntime.InferenceSession, feeds: Feeds) -> dict[str, FloatArray]:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        names = [output.name for output in outputs]
        if BFLOAT16 not in [info.type for info in (*inputs, *outputs)]:
            arrays = {
                info.name: converted(feeds[info.name], info.type, info.name) for info in inputs
            }
            results = session.run(names, arrays)
            return {
                name: np.asarray(result, np.float32)
                for name, result in zip(names, results, strict=True)
            }
        # The same through values of the runtime, which may hold bfloat16.
        values: Mapping[str, Any] = {
            info.name: to_value(self._runtime, feeds[info.name], info.type, info.name)
            for info in inputs
        }
        results = session.run_with_ort_values(names, values)
        return {name: to_array(result) for name, result in zip(names, results, strict=True)}

    def prepare(self, feeds: Feeds, options: RunOptions) -> PreparedRun:
        from dinat_deploy.session.onnxruntime_run import OnnxRuntimeRun

        return OnnxRuntimeRun(self, self._runtime, feeds, options)
