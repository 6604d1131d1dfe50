"""Engines: from an ONNX file to a TensorRT plan and its manifest.

    builder.py         what every builder is given and gives back
    tensorrt_rtx.py    the builder for TensorRT-RTX, ahead of time and without a GPU
    process.py         runs a builder in a worker process, so that its crash is an error message
    network.py         the worker's side that all flavours of TensorRT share
    worker.py          the worker: one build from its task to its outcome
    profiles.py        shapes of dynamic inputs: syntax, defaults, checks
    manifest.py        engine.json: what an engine was made of, and the checks before its use
    onnx_file.py       what a builder must know of an ONNX file, read without the package onnx

Nothing here imports torch or onnx: a device that only builds and runs engines has neither.
"""
