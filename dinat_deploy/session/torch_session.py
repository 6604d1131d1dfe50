"""Run a PyTorch module behind the session protocol."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dinat_deploy.session.base import Feeds, FloatArray


class TorchSession:
    """A module in evaluation mode on one device.

    Args:
        module: its ``forward`` takes the inputs in the order of ``input_names``.
        output_names: names of what it returns (one tensor, or a tuple of them).
        taps: paths of submodules whose outputs are returned as well, under their path.
    """

    def __init__(
        self,
        module: nn.Module,
        input_names: Sequence[str],
        output_names: Sequence[str],
        *,
        taps: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        self.name = f"PyTorch {torch.__version__}"
        self._module = module.eval().to(device)
        self._inputs = tuple(input_names)
        self._outputs = tuple(output_names)
        self._taps = tuple(taps)
        self._device = device

    def run(self, feeds: Feeds) -> dict[str, FloatArray]:
        tapped: dict[str, Tensor] = {}
        handles = [
            self._module.get_submodule(path).register_forward_hook(
                lambda module, args, output, path=path: tapped.__setitem__(path, output)
            )
            for path in self._taps
        ]
        try:
            with torch.inference_mode():
                # A copy: arrays may be read-only, which torch does not know.
                tensors = [torch.tensor(feeds[name], device=self._device) for name in self._inputs]
                returned = self._module(*tensors)
        finally:
            for handle in handles:
                handle.remove()
        results = (returned,) if isinstance(returned, Tensor) else tuple(returned)
        named = dict(zip(self._outputs, results, strict=True)) | tapped
        return {name: tensor.float().cpu().numpy() for name, tensor in named.items()}
