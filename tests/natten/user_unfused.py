"""Models as their authors wrote them for NATTEN 0.14: unfused functions, heads first."""

import torch
from natten.functional import natten1dav, natten1dqkrpb, natten2dav, natten2dqkrpb
from torch import nn


class Attention(nn.Module):
    """One projection, permuted to heads first, as in NATTEN's own modules."""

    def __init__(self, dim=16, heads=2, kernel_size=3, dilation=2):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.kernel_size, self.dilation = kernel_size, dilation
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rpb = nn.Parameter(torch.randn(heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.drop = nn.Dropout(0.1)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        b, h, w, c = x.shape
        qkv = self.qkv(x).reshape(b, h, w, 3, self.heads, c // self.heads)
        qkv = qkv.permute(3, 0, 4, 1, 2, 5)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = natten2dqkrpb(q * self.scale, k, self.rpb, self.kernel_size, self.dilation)
        attn = self.drop(attn.softmax(dim=-1))
        x = natten2dav(attn, v, self.kernel_size, self.dilation)
        return self.proj(x.permute(0, 2, 3, 1, 4).reshape(b, h, w, c))


class ThreeLinears(nn.Module):
    """Three projections of one tensor, as in Hugging Face's Dinat."""

    def __init__(self, dim=16, heads=2, kernel_size=3):
        super().__init__()
        self.heads, self.kernel_size = heads, kernel_size
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.rpb = nn.Parameter(torch.randn(heads, 2 * kernel_size - 1, 2 * kernel_size - 1))

    def split(self, x):
        return x.view(*x.shape[:-1], self.heads, -1).permute(0, 3, 1, 2, 4)

    def forward(self, x):
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        q = q / q.shape[-1] ** 0.5
        attn = nn.functional.softmax(natten2dqkrpb(q, k, self.rpb, self.kernel_size, 1), dim=-1)
        out = natten2dav(attn, v, self.kernel_size, 1).permute(0, 2, 3, 1, 4).contiguous()
        return out.view(*out.shape[:-2], -1)


class OneAxis(nn.Module):
    """1-D, with the scale after the product and the softmax in float32."""

    def __init__(self, dim=16, heads=2, kernel_size=5):
        super().__init__()
        self.heads, self.kernel_size = heads, kernel_size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rpb = nn.Parameter(torch.randn(heads, 2 * kernel_size - 1))

    def forward(self, x):
        b, length, c = x.shape
        q, k, v = (
            part.view(b, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        attn = natten1dqkrpb(q, k, self.rpb, self.kernel_size, 2) * 0.25
        attn = torch.softmax(attn, -1, dtype=torch.float32).to(v.dtype)
        return natten1dav(attn, v, self.kernel_size, 2).transpose(1, 2).reshape(b, length, c)


class Convolutions(nn.Module):
    """Channels first, projections by convolution."""

    def __init__(self, dim=16, heads=2):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.rpb = nn.Parameter(torch.randn(heads, 5, 5))

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.to_qkv(x).view(b, 3, self.heads, -1, h, w).permute(1, 0, 2, 4, 5, 3)
        attn = natten2dqkrpb(q, k, self.rpb, 3, 2).softmax(-1)
        return natten2dav(attn, v, 3, 2).permute(0, 1, 4, 2, 3).reshape(b, c, h, w)


class TalkingHeads(nn.Module):
    """Mixes the weights of the heads, so that scores and sums stay apart."""

    def __init__(self, heads=2):
        super().__init__()
        self.mix = nn.Parameter(torch.randn(heads, heads))

    def forward(self, q, k, v):
        attn = natten2dqkrpb(q, k, None, 3, 2).softmax(-1)
        attn = torch.einsum("bhxyk,hg->bgxyk", attn, self.mix)
        return natten2dav(attn, v, 3, 2)
