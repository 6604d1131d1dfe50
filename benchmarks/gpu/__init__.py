"""Parts of the GPU benchmark ``benchmarks/op_gpu.py``."""
