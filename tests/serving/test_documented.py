"""The curl lines of the documentation work."""

import json
import re
import shutil
import subprocess

import pytest
from onnx import TensorProto, helper

from dyndeploy.tensors import Dim, TensorSpec

CURL = re.compile(r"^    (curl .*(?:(?<=\\)\n.*)*)", re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def digits(make_bundle, serve, tmp_path_factory):
    """A server of a model with the name, the input and the output of the digits."""
    shapes = {"image": ["batch", 1, 32, 32], "logits": ["batch", 10]}
    ten = [helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("from", 0), ("to", 10), ("axis", 1))]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Slice", ["flat", "from", "to", "axis"], ["logits"]),
        ],
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shapes["image"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shapes["logits"])],
        ten,
    )
    specs = [TensorSpec(name=name, shape=tuple(shape)) for name, shape in shapes.items()]
    folder = make_bundle(
        tmp_path_factory.mktemp("documented") / "digits",
        graph,
        specs[:1],
        specs[1:],
        {"batch": Dim(min=1, opt=8, max=32)},
        lambda arrays: {"logits": arrays["image"].reshape(-1, 1024)[:, :10]},
    )
    with serve(folder) as server:
        yield server


@pytest.mark.parametrize("page", ["docs/serving.md", "README.md"])
def test_curl_lines(page, root, digits):
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl or bash is not installed")
    commands = [c for c in CURL.findall((root / page).read_text()) if ADDRESS in c]
    if page.startswith("docs"):
        assert len(commands) >= 2
    for command in commands:
        here = command.replace(ADDRESS, digits.url)
        done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout)
        assert "error" not in answer
        if "infer" in command:
            assert answer["outputs"][0]["data"] == [0.5] * 10
