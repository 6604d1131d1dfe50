"""The attention of transformers' Dinat and Nat, computed by the operator of this project.

transformers has computed it in three ways: up to 4.53 right, with functions that NATTEN dropped;
4.54 to 5.0 fail on the shape of their own input; later ones (seen: 5.14 to 5.24) hand NATTEN maps
``[B, W, H, heads, dim]`` where it wants ``[B, heads, H, W, dim]``. The parameters are the same in
all of them: the linear layers ``query``, ``key`` and ``value``, and ``rpb``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F

from dinat_deploy.ops import unfused
from dinat_deploy.ops.functional import neighborhood_attention_2d

if TYPE_CHECKING:
    from torch import nn

    _Module = nn.Module
else:
    _Module = object

NAME = "NeighborhoodAttention"
_FAMILIES = ("dinat", "nat")


class _Repaired(_Module):
    """What is put before transformers' class; everything but ``forward`` stays theirs."""

    query: Any
    key: Any
    value: Any
    rpb: Tensor
    dropout: nn.Dropout
    num_attention_heads: int
    kernel_size: int

    def forward(
        self, hidden_states: Tensor, output_attentions: bool | None = False
    ) -> tuple[Tensor, ...]:
        """``[B, H, W, channels]`` -> the same, and if asked for the weights ``[B, heads, H, W,
        kernel_size ** 2]`` after dropout, as transformers returns them.

        Raises:
            OperatorError: the map is smaller than the window (transformers' layer pads it before).
        """
        heads = self.num_attention_heads
        shape = (*hidden_states.shape[:-1], heads, hidden_states.shape[-1] // heads)
        query, key, value = (
            linear(hidden_states).view(shape) for linear in (self.query, self.key, self.value)
        )
        size, step = self.kernel_size, int(getattr(self, "dilation", 1))
        if not (output_attentions or (self.training and self.dropout.p > 0)):
            out = neighborhood_attention_2d(
                query, key, value, self.rpb, kernel_size=size, dilation=step
            )
            return (out.flatten(-2),)
        # The weights themselves, which the operator never has in one place.
        first = [tensor.movedim(-2, 1) for tensor in (query * shape[-1] ** -0.5, key, value)]
        bias = self.rpb.to(query.dtype)
        scores = unfused.scores(first[0], first[1], bias, kernel_size=size, dilation=step)
        weights = self.dropout(F.softmax(scores, dim=-1)).to(value.dtype)
        sums = unfused.combine(weights, first[2], kernel_size=size, dilation=step)
        out = sums.movedim(1, -2).flatten(-2)
        return (out, weights) if output_attentions else (out,)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time, so copies and pickles name the one it was made from.
        theirs = next(kind for kind in type(self).__mro__ if not is_repaired(kind))
        return _restore, (theirs,), self.__dict__


def _restore(theirs: type) -> Any:
    made = repaired(theirs)
    return object.__new__(made)


def is_theirs(kind: type) -> bool:
    """Whether a class is transformers' neighborhood attention, as it is or as changed here."""
    parts = kind.__module__.split(".")
    known = parts[0] == "transformers" and any(family in parts for family in _FAMILIES)
    return known and kind.__name__ == NAME


def is_repaired(kind: type) -> bool:
    return issubclass(kind, _Repaired)


def repaired(theirs: type) -> type:
    """transformers' class with our ``forward``; the class itself if it has it already."""
    return theirs if is_repaired(theirs) else _made(theirs)


@cache
def _made(theirs: Any) -> type:
    made = type(NAME, (_Repaired, theirs), {"__module__": theirs.__module__})
    made.__doc__ = f"{NAME} of {theirs.__module__}, computed by dinat_deploy."
    return made
