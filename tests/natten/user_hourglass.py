"""A model as its author wrote it for NATTEN 0.17: a block of an hourglass diffusion transformer.

2-D neighborhood attention without positional bias; queries and keys are normalised to a learned
scale and rotated by their position (axial RoPE), so they are not parts of the projection's output.
Written from the description of the architecture (Crowson et al., arXiv 2401.11605).
"""

import math

import natten
import torch
from torch import nn
from torch.nn import functional as F


def scaled_to_unit(q, k, scale, eps=1e-6):
    root = torch.sqrt(scale)
    q = q * (root * torch.rsqrt(q.square().sum(-1, keepdim=True) + eps))
    k = k * (root * torch.rsqrt(k.square().sum(-1, keepdim=True) + eps))
    return q, k


def rotated(x, theta):
    half = theta.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cosine, sine = torch.cos(theta), torch.sin(theta)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine, rest], dim=-1)


class AxialRope(nn.Module):
    def __init__(self, head_dim, heads):
        super().__init__()
        count = head_dim // 8
        log_freqs = torch.linspace(math.log(math.pi), math.log(10 * math.pi), heads * count + 1)[
            :-1
        ]
        self.register_buffer("freqs", log_freqs.exp().view(count, heads).T.contiguous())

    def forward(self, pos):
        rows = pos[..., None, 0:1] * self.freqs
        columns = pos[..., None, 1:2] * self.freqs
        return torch.cat([rows, columns], dim=-1)


class Block(nn.Module):
    def __init__(self, width=48, head_dim=16, kernel_size=5):
        super().__init__()
        self.heads, self.head_dim, self.kernel_size = width // head_dim, head_dim, kernel_size
        self.condition = nn.Linear(8, width, bias=False)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.scale = nn.Parameter(torch.full([self.heads], 10.0))
        self.rope = AxialRope(head_dim, self.heads)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def norm(self, x, cond):
        wide = x.float()
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * cond

    def forward(self, x, pos, cond):
        cond = self.condition(cond)[:, None, None, :] + 1
        qkv = self.qkv_proj(self.norm(x, cond))
        theta = self.rope(pos)
        if natten.has_fused_na():
            n, h, w, _ = qkv.shape
            q, k, v = qkv.view(n, h, w, 3, self.heads, self.head_dim).unbind(3)
            q, k = scaled_to_unit(q, k, self.scale[:, None])
            q, k = rotated(q, theta), rotated(k, theta)
            y = natten.functional.na2d(q, k, v, self.kernel_size, scale=1.0)
            y = y.flatten(-2)
        else:
            raise NotImplementedError
        x = x + self.out_proj(y)
        value, gate = self.up(self.norm(x, cond)).chunk(2, dim=-1)
        return x + self.down(value * F.gelu(gate))
