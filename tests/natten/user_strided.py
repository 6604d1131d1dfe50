"""Models as their authors wrote them for NATTEN 0.20 and later."""

import natten
import torch
from natten import NeighborhoodAttention3D, na1d, na2d
from torch import nn


class Video(nn.Module):
    """3-D, causal in time, strided in space."""

    def __init__(self):
        super().__init__()
        self.attention = NeighborhoodAttention3D(
            embed_dim=16,
            num_heads=2,
            kernel_size=(2, 3, 4),
            stride=(1, 3, 2),
            is_causal=(True, False, False),
        )

    def forward(self, x):
        return x + self.attention(x)


class Audio(nn.Module):
    """1-D."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = torch.unbind(self.qkv(x).unflatten(-1, (3, 2, 8)), dim=2)
        return na1d(q, k, v, kernel_size=7, dilation=2, backend="cutlass-fna").flatten(-2)


class WithContext(nn.Module):
    """Every token sees some tokens of text besides; fewer heads of keys; sums of exponentials."""

    def forward(self, q, k, v, text_k, text_v):
        return na2d(q, k, v, 3, additional_keys=text_k, additional_values=text_v, return_lse=True)


def version():
    return natten.__version__
