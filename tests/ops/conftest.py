"""What the tests of all operators share: inputs, windows that hypothesis draws, and the body against the op."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from dyndeploy.testing.numeric import compare
from dyndeploy.testing.single_op import single_op_model


@pytest.fixture(scope="session")
def draw() -> Callable[..., list[Tensor]]:
    """`Case.draw` as torch tensors, in float64 or rounded to `dtype`."""

    def draw_tensors(case, seed=0, dtype=torch.float64, **more):
        return [torch.from_numpy(array).to(dtype) for array in case.draw(seed, **more).values()]

    return draw_tensors


@pytest.fixture(scope="session")
def draw_window() -> Callable[..., dict[str, Any]]:
    """Any window, and a map that it fits into, as `Case.of` takes them."""

    def draw_values(data):
        def twice(low, high):
            return st.tuples(st.integers(low, high), st.integers(low, high))

        kernel, dilations = data.draw(twice(1, 3), "kernel"), data.draw(twice(1, 2), "dilations")
        pads = data.draw(twice(0, 2), "begin") + data.draw(twice(0, 2), "end")
        smallest = [max(1, d * (k - 1) + 1 - a - b) for d, k, a, b in zip(dilations, kernel, pads, pads[2:])]
        height, width = (low + data.draw(st.integers(0, 3), "more") for low in smallest)
        strides = data.draw(twice(1, 3), "strides")
        return {"kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations, "H": height, "W": width}

    return draw_values


@pytest.fixture(scope="session")
def body_error() -> Callable[..., float]:
    """Relative L2 error of the body in ONNX Runtime, in the dtype of the inputs, to the float64 op on the same ones."""

    def relative_error(case, feeds, *, gridsample=False):
        dtype = feeds["X"].dtype.name
        model = single_op_model(case.spec, case.attributes, dtype, gridsample=gridsample)
        (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
        assert y.dtype == dtype
        truth = case.run(*(torch.from_numpy(a.astype(np.float64)) for a in feeds.values()))
        return compare(y, truth.numpy()).relative_l2

    return relative_error
