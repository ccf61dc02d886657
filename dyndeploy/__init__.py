"""dyndeploy: from a PyTorch model with content-dependent convolutions to one ONNX file, with proven numbers."""
