"""From a module to a torch.export program, and from the program to an ONNX graph of bare nodes."""
