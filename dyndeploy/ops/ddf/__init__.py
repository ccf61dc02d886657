"""Decoupled dynamic filter (DDF) and its upsampling form (DDF-Up)."""
