"""Run models: one protocol over PyTorch, ONNX Runtime and TensorRT."""
