"""Engines of TensorRT and of TensorRT for RTX: building them, what is known of one, and running it.

`record.py` is what a bundle says of an engine in it, `vendor.py` which package serves a target and how plugins get into
its registry. The builder runs in a process of its own, since the vendor's library can end the process it is in.
Importing this package imports no TensorRT.
"""
