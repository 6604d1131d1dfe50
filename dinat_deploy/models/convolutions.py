"""Convolutions under the names that mmcv's modules give them, and their normalizations folded."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights


class PlainConv(nn.Module):
    """A convolution of stride 1 and nothing else."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` -> ``[B, out_channels, H, W]``."""
        return self.conv(x)


class ConvModule(nn.Module):
    """Convolution of stride 1, batch normalization, ReLU.

    Args:
        folded: the normalization is part of the convolution, which then has a bias; see
            :func:`folded_state`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, folded: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=folded)
        self.bn = None if folded else nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` -> ``[B, out_channels, H, W]``."""
        x = self.conv(x)
        return F.relu(x if self.bn is None else self.bn(x))


@torch.no_grad()
def folded_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the same function with every batch normalization of a :class:`ConvModule`
    as part of the convolution before it, in float64."""
    state = {name: tensor for name, tensor in model.state_dict().items() if ".bn." not in name}
    for path, module in model.named_modules():
        if not isinstance(module, ConvModule) or module.bn is None:
            continue
        bn = module.bn
        assert bn.running_mean is not None and bn.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            module.conv.weight.double(),
            None,
            bn.running_mean.double(),
            bn.running_var.double(),
            bn.eps,
            bn.weight.double(),
            bn.bias.double(),
        )
        state |= {f"{path}.conv.weight": weight.float(), f"{path}.conv.bias": bias.float()}
    return state
