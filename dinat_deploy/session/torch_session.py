"""Run a PyTorch module behind the session protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from dinat_deploy.errors import BundleError, ConfigError, DinatDeployError, MissingDependencyError
from dinat_deploy.session.base import Feeds, FloatArray, PreparedRun, RunOptions
from dinat_deploy.session.measuring import MemoryGain


class TorchSession:
    """A module in evaluation mode on one device.

    On a GPU, float32 is computed as float32: TensorFloat-32 is off, as in our engines by default.

    Args:
        module: its ``forward`` takes the inputs in the order of ``input_names``.
        output_names: names of what it returns (one tensor, or a tuple of them).
        taps: paths of submodules whose outputs are returned as well, under their path.
        device: ``cpu`` or ``cuda``, also with a number.
        dtype: type of weights, inputs and everything between, instead of the module's own.
        compiled: run it through ``torch.compile``, which happens in the first run of each shape.
        memory_gain: of the process by making the module, if that was watched.

    Attributes:
        device: ``CPU`` or the name of the GPU.
        compiled: as asked.
        memory_gain: of the process by loading the module and preparing runs.

    Raises:
        MissingDependencyError: a GPU is asked for, and PyTorch sees none.
        ConfigError: taps of a compiled module are asked for: it has no submodules any more.
    """

    def __init__(
        self,
        module: nn.Module,
        input_names: Sequence[str],
        output_names: Sequence[str],
        *,
        taps: Sequence[str] = (),
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        compiled: bool = False,
        memory_gain: MemoryGain | None = None,
    ) -> None:
        if taps and compiled:
            raise ConfigError(
                "A model that went through torch.compile lets no outputs of layers out.",
                "Use the runtime torch or torch-cuda.",
            )
        if device != "cpu":
            _require_gpu(device)
        self.torch_device = torch.device(device)
        on_gpu = self.torch_device.type == "cuda"
        self.device = torch.cuda.get_device_name(self.torch_device) if on_gpu else "CPU"
        self.name = f"PyTorch {torch.__version__}" + (" compiled" if compiled else "")
        if dtype is not None:
            self.name += f", {str(dtype).removeprefix('torch.')}"
        self.notes: list[str] = []
        self.compiled = compiled
        self.memory_gain = memory_gain or MemoryGain()
        self._module: nn.Module | None = module.eval().to(self.torch_device, dtype)
        self._call: Callable[..., Any] | None = self._module
        if compiled:
            self._call = torch.compile(self._module)
        self._dtype = dtype
        self._inputs = tuple(input_names)
        self._outputs = tuple(output_names)
        self._taps = tuple(taps)

    @property
    def module(self) -> nn.Module:
        """The module, not compiled; raises BundleError if the session is closed."""
        if self._module is None:
            raise BundleError("This PyTorch session is closed.", "Open the model again.")
        return self._module

    def close(self) -> None:
        self._module = self._call = None

    def run(self, feeds: Feeds) -> dict[str, FloatArray]:
        tapped: dict[str, Tensor] = {}
        handles = [
            self.module.get_submodule(path).register_forward_hook(
                lambda module, args, output, path=path: tapped.__setitem__(path, output)
            )
            for path in self._taps
        ]
        try:
            with exact():
                results = self.call(self.tensors(feeds))
        finally:
            for handle in handles:
                handle.remove()
        named = dict(zip(self._outputs, results, strict=True)) | tapped
        return {name: tensor.float().cpu().numpy() for name, tensor in named.items()}

    def tensors(self, feeds: Feeds, device: str | None = None) -> list[Tensor]:
        """Copies of the inputs, on the session's device unless another is named.

        Copies, because arrays may be read-only, which torch does not know.

        Raises:
            BundleError: an input is missing.
        """
        if missing := [name for name in self._inputs if name not in feeds]:
            raise BundleError(
                f"The input {missing[0]} is missing; the model takes {', '.join(self._inputs)}, "
                f"and {', '.join(feeds) or 'nothing'} was given."
            )
        place = self.torch_device if device is None else torch.device(device)
        return [torch.tensor(feeds[name], device=place, dtype=self._dtype) for name in self._inputs]

    def call(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run on tensors that are where the module is.

        Raises:
            DinatDeployError: torch.compile found no compiler, or could not compile the model.
        """
        if self._call is None:
            raise BundleError("This PyTorch session is closed.", "Open the model again.")
        try:
            returned = self._call(*tensors)
        except Exception as error:
            if self.compiled and type(error).__module__.startswith("torch._"):
                # Its first line names the backend, the second the reason.
                lines = str(error).strip().splitlines()[:2] or [type(error).__name__]
                raise DinatDeployError(
                    f"torch.compile could not compile the model: {' '.join(lines)}.",
                    "It needs a C++ compiler on the CPU, and triton on a GPU; the runtimes torch "
                    "and torch-cuda need neither.",
                ) from error
            raise
        return (returned,) if isinstance(returned, Tensor) else tuple(cast(list[Tensor], returned))

    def prepare(self, feeds: Feeds, options: RunOptions) -> PreparedRun:
        from dinat_deploy.session.torch_run import prepare

        return prepare(self, feeds, options)


@contextmanager
def exact() -> Iterator[None]:
    """Inference mode, with float32 computed as float32 on a GPU."""
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = cudnn
        torch.backends.cuda.matmul.allow_tf32 = matmul


def _require_gpu(device: str) -> None:
    number = torch.device(device).index or 0
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number < count:
        return
    if count:
        raise MissingDependencyError(
            f"There is no GPU {number} here; PyTorch sees {count}.", "Choose another."
        )
    built = torch.version.cuda
    if built is None:
        raise MissingDependencyError(
            f"PyTorch {torch.__version__} is built without CUDA, so that it cannot use a GPU.",
            "Install PyTorch with CUDA, as https://pytorch.org/get-started says for this machine.",
        )
    raise MissingDependencyError(
        f"PyTorch {torch.__version__} is built for CUDA {built}, and it sees no NVIDIA GPU here.",
        "Run it on a machine with a GPU, or with the runtime torch on the CPU.",
    )
