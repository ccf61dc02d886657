"""Self-calibrated convolution (SCConv)."""
