"""Dynamic region-aware convolution (DRConv)."""
