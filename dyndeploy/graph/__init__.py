"""Passes over the ONNX graph, one class a file. Each says what it requires and what it ensures; bodies are attached last."""
