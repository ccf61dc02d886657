"""The Open Inference Protocol, version 2: what it says, independent of how it travels."""
