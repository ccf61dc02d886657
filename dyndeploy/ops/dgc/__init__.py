"""Dynamic group convolution (DGC)."""
