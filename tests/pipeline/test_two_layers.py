"""Two layers of each operator, anisotropic, exported, and run in plain ONNX Runtime at other shapes."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from dyndeploy.demo import body_for
from dyndeploy.nn import DDF, DDFUp, DGConv2d, DRConv2d, ModulatedDeformConv2d, SCConv2d
from dyndeploy.pipeline.export import export
from dyndeploy.testing.numeric import compare

MODELS = {
    "dcnv2": lambda: nn.Sequential(
        ModulatedDeformConv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), groups=2, offset_groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        ModulatedDeformConv2d(6, 4, (2, 3), (1, 2), (2, 0), (2, 1), mask_scale=2.0),
    ),
    "dcnv1": lambda: nn.Sequential(
        ModulatedDeformConv2d(4, 6, 3, (1, 2), (0, 2), (1, 2), modulated=False),
        ModulatedDeformConv2d(6, 4, 1, (2, 1), modulated=False, bias=False),
    ),
    "ddf": lambda: nn.Sequential(
        DDF(4, (3, 5), (2, 1), (1, 2)), nn.BatchNorm2d(4), nn.ReLU(), DDF(4, 3, (1, 3), heads=2)
    ),
    "ddf-add": lambda: nn.Sequential(
        DDF(4, 3, (1, 2), (2, 1), combine="add"), nn.BatchNorm2d(4), DDF(4, combine="add")
    ),
    "ddf-up": lambda: nn.Sequential(DDFUp(4, (3, 5), 2, (2, 1)), DDFUp(4, 3, 3, heads=2, combine="add")),
    "drconv": lambda: nn.Sequential(
        DRConv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), regions=4),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        DRConv2d(6, 4, (1, 3), (1, 2), (0, 1), bases=3),
    ),
    "drconv-paper": lambda: nn.Sequential(
        DRConv2d(4, 6, 3, (1, 2), (2, 1), (2, 1), regions=4, generator="paper"),
        nn.BatchNorm2d(6),
        DRConv2d(6, 4, 2, (2, 1), generator="paper"),
    ),
    "dgc": lambda: nn.Sequential(
        DGConv2d(8, 12, (3, 2), (2, 1), (1, 2), (1, 2)),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        DGConv2d(12, 8, 3, (1, 2), (2, 1), (2, 1), heads=2, keep=0.4),
    ),
    "scconv": lambda: nn.Sequential(SCConv2d(4, (2, 1), (1, 2)), nn.ReLU(), SCConv2d(4, groups=2, upsample="bilinear")),
}

PLAIN = """
import json, sys
import numpy, onnxruntime
model, inputs, outputs = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
feeds = numpy.load(inputs)
results = {key: session.run(None, {"x": feeds[key]})[0] for key in feeds}
numpy.savez(outputs, **results)
print(json.dumps(sorted(m for m in sys.modules if m.split(".")[0] in ("dyndeploy", "torch"))))
"""


def _randomized(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    for name, parameter in model.named_parameters():
        if "predictor" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_plain_onnxruntime_agrees_at_other_shapes(name, tmp_path):
    model = _randomized(MODELS[name]())
    channels = {"dgc": 8}.get(name, 4)
    bundle = export(
        model,
        torch.randn(1, channels, 20, 24),
        tmp_path / name,
        inputs={"x": ["batch", channels, "height", "width"]},
        dims={"batch": (1, 2, 5), "height": (14, 20, 40), "width": (14, 24, 40)},
        body=body_for(onnxruntime.__version__),
    )
    generator = np.random.default_rng(1)
    feeds = {
        f"{n}x{h}x{w}": generator.standard_normal((n, channels, h, w)).astype("f")
        for n, h, w in ((1, 14, 17), (3, 33, 15), (5, 40, 38))
    }
    np.savez(tmp_path / "in.npz", **feeds)
    command = [sys.executable, "-c", PLAIN, str(bundle.onnx_path), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == [], "the file must run without dyndeploy and torch"
    results = np.load(tmp_path / "out.npz")
    model.double()
    for key, x in feeds.items():
        expected = model(torch.from_numpy(x).double()).detach().numpy()
        assert results[key].shape == expected.shape
        assert compare(results[key], expected).relative_l2 < 1e-5, key
