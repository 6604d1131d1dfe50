"""INT8 and FP8 in a graph: where QuantizeLinear and DequantizeLinear stand, and their scales."""
