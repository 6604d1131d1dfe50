"""Engines: from an ONNX file to a TensorRT plan and its manifest.

Building
    builder.py         what every builder is given and gives back
    tensorrt.py        the builder for TensorRT, on the GPU that the engine is for
    tensorrt_rtx.py    the builder for TensorRT-RTX, ahead of time and without a GPU
    options.py         what a flavour and version does not have, said before anything is started
    process.py         runs a builder in a worker process, so that its crash is an error message
    messages.py        what the worker tells meanwhile
    worker.py          the worker: one build from its task to its outcome
    network.py         the worker's side of parsing; configuration.py of the builder's options
    measured.py        the timing cache of one build; timing_cache.py is its file
    inspector.py       the layers of the finished engine

From the model and the machine
    onnx_file.py       what a builder must know of an ONNX file, read without the package onnx
    protobuf.py        the structure of its format
    strip_body.py      a copy without the operator's body, for parsers that prefer it to the plugin
    profiles.py        shapes of dynamic inputs: syntax, defaults, checks
    plugin_choice.py   whether attention is built from the plugin or from the body
    devices.py         the GPUs and accelerators of this machine

Before an engine is used
    manifest.py        engine.json: what an engine was made of
    checks.py          everything that is compared before a plan is loaded
    trust.py           which plans may run code on this machine's processor

Nothing here imports torch or onnx: a device that only builds and runs engines has neither.
"""
