"""The neighborhood attention operator: its definition and its PyTorch implementation."""
