"""gRPC: the protocol's other half."""
