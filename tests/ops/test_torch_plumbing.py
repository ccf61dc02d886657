"""What `register` makes of an OpSpec and two functions, on an op so small that all of it is visible."""

import pytest
import torch

from dyndeploy.errors import DynError
from dyndeploy.ops._spec import Attribute, OpSpec, Tensor
from dyndeploy.ops._torch import four_pads, pair, register, torch_op

# y = gain * x * weight, or gain * (x + weight) with `add`.
SPEC = OpSpec(
    folder="plumbing",
    title="Product",
    name="PlumbingTestOp",
    torch_name="plumbing_test_op",
    inputs=(Tensor("X", ("N", "C")), Tensor("W", ("C",))),
    output=Tensor("Y", ("N", "C")),
    attributes=(
        Attribute("gain", "float", 1.0, "gain"),
        Attribute("add", "int", 0, "add", low=0, high=1),
        Attribute("window", "ints", (1, 1), "window", 2, low=1),
        Attribute("relu", "int", 0, "relu", low=0, high=1),
    ),
)
seen = []


def forward(x, weight, *, gain, add, window, relu):
    seen.append((x.dtype, weight.dtype, gain, add, tuple(window), relu))
    y = gain * (x + weight if add else x * weight)
    return y.relu() if relu else y


def backward(grad, x, weight, *, needs, gain, add, window, relu):
    grad = grad * gain
    grad_x = (grad if add else grad * weight) if needs[0] else None
    grad_weight = (grad if add else grad * x).sum(0) if needs[1] else None
    return grad_x, grad_weight


op = register(SPEC, forward, backward)


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (4,))]


def call(x, weight, gain=2.0, add=False, window=(1, 1), relu=False):
    return op(x, weight, gain, add, window, relu)


def test_schema_follows_the_spec():
    arguments = "Tensor x, Tensor weight, float gain, bool add, int[2] window, bool relu"
    assert str(torch_op(SPEC)._schema) == f"dyndeploy::plumbing_test_op({arguments}) -> Tensor"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32_and_rounded_once(tensors, dtype):
    x, weight = (t.to(dtype) for t in tensors)
    seen.clear()
    y = call(x, weight, 3.0, True, (1, 2), True)
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    assert seen == [(wide, wide, 3.0, True, (1, 2), True)]
    assert y.dtype == dtype
    assert torch.equal(y, (3.0 * (x.to(wide) + weight.to(wide))).relu().to(dtype))


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_and_the_relu_mask(tensors, add, relu):
    inputs = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda x, weight: call(x, weight, add=add, relu=relu), inputs)


def test_backward_computes_only_what_is_needed(tensors):
    x, weight = tensors
    call(x, weight.requires_grad_()).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, 2 * x.sum(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_have_the_dtype_of_their_tensor(tensors, dtype):
    inputs = [t.to(dtype).requires_grad_() for t in tensors]
    call(*inputs).sum().backward()
    assert [t.grad.dtype for t in inputs] == [dtype, dtype]


def test_output_is_contiguous_and_shares_nothing(tensors):
    x = tensors[0].T.contiguous().T
    y = call(x, torch.ones(4, dtype=torch.float64), 1.0)
    assert y.is_contiguous()
    assert y.data_ptr() != x.data_ptr()


def test_fake_kernel_gives_shape_dtype_and_device(tensors):
    y = call(tensors[0].half().to("meta"), tensors[1].half().to("meta"))
    assert (y.shape, y.dtype, y.device.type) == ((3, 4), torch.float16, "meta")


def test_opcheck(tensors):
    torch.library.opcheck(torch_op(SPEC), (*[t.requires_grad_() for t in tensors], 2.0, False, [1, 1], True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_follows_the_dtype_that_the_user_chose(tensors, dtype):
    x, weight = tensors
    seen.clear()
    with torch.autocast("cpu", dtype=dtype):
        assert call(x.float(), weight.to(dtype)).dtype == dtype
        assert call(x, weight).dtype == torch.float64
        with torch.autocast("cpu", enabled=False):
            assert call(x.float(), weight.float()).dtype == torch.float32
    assert [s[0] for s in seen] == [torch.float32, torch.float64, torch.float32]


def test_autocast_keeps_the_gradient(tensors):
    x, weight = (t.float().requires_grad_() for t in tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        call(x, weight).sum().backward()
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, (2 * weight).expand(3, 4), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w: call(x.int(), w), "plumbing_test_op: x is torch.int32"),
        (lambda x, w: call(x, w.float()), "weight is torch.float32 on .*, but x is torch.float64"),
        (lambda x, w: call(x, w[:3]), r"weight has shape \[3\], but dim 0 must be C = 4"),
        (lambda x, w: call(x, w, window=(0, 1)), r"window=\[0, 1\] is outside >= 1"),
    ],
)
def test_kernel_and_fake_kernel_refuse_the_same(tensors, device, change, message):
    with pytest.raises(DynError, match=message):
        change(*(t.to(device) for t in tensors))


def test_pair():
    assert pair(3) == (3, 3)
    assert pair([1, 2]) == (1, 2)
    with pytest.raises(DynError, match=r"\[1, 2, 3\] is not one int or two \(height, width\)"):
        pair([1, 2, 3])


def test_four_pads():
    assert four_pads(1) == (1, 1, 1, 1)
    assert four_pads((1, 2)) == (1, 2, 1, 2)
    assert four_pads([1, 2, 3, 4]) == (1, 2, 3, 4)
    with pytest.raises(DynError, match=r"\(1, 2, 3\) is not one int, two \(height, width\) or four"):
        four_pads((1, 2, 3))
