"""The ONNX side of the operator: schema, function body, and passes over exported graphs."""
