"""Modulated deformable convolution (DCNv2)."""
