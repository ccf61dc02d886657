"""The page at /, in headless Chromium: what it shows is what the server says, and what it sends is answered."""

import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dyndeploy
from dyndeploy.nn import ModulatedDeformConv2d
from dyndeploy.serving import Server

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Set where a browser has to be there: its absence is then a failure.
REQUIRED = "DYNDEPLOY_BROWSER"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
TOKEN = "a-token-of-tests"


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A classifier of grey images, and a filter of coloured ones of any size."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("page")
    classify = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), Mean(), nn.Linear(8, 10)).eval()
    dims = {"batch": (1, 2, 4)}
    first = dyndeploy.export(
        classify, torch.rand(1, 1, 16, 16), folder / "classify", inputs={"image": ["batch", 1, 16, 16]}, dims=dims
    )
    sizes = dims | {"height": (8, 16, 32), "width": (8, 24, 32)}
    second = dyndeploy.export(
        ModulatedDeformConv2d(3, 2, 3, padding=1).eval(),
        torch.rand(1, 3, 16, 16),
        folder / "bend",
        inputs={"image": ["batch", 3, "height", "width"]},
        dims=sizes,
    )
    return [first.path, second.path]


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        problem = f"There is no {BROWSERS[0]} here: apt-get install chromium."
        if os.environ.get(REQUIRED):
            pytest.fail(problem)
        pytest.skip(problem)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that must not complain: neither in its console nor by an error."""
    page = browser.new_page()
    page.set_default_timeout(20_000)
    complaints = []
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.complaints = complaints
    yield page
    page.close()


@pytest.fixture(scope="module")
def server(bundles):
    with Server(bundles, port=0, grpc_port=None) as server:
        yield server


def png(path, rgb):
    """An image file of one colour."""

    def block(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    rows = b"".join(b"\0" + bytes(rgb) * 5 for _ in range(5))
    header = (5).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", zlib.compress(rows)) + block(b"IEND", b"")
    )
    return path


def figures(page, model):
    card = page.locator("article", has=page.get_by_role("heading", name=model, exact=True))
    return dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts()))


def test_models_and_their_figures(page, server):
    page.goto(server.url)
    card = page.locator("article", has=page.get_by_role("heading", name="bend", exact=True))
    playwright.expect(card.locator(".pill")).to_have_text("ready")
    playwright.expect(card).to_contain_text("[batch, 3, height, width]")
    playwright.expect(card).to_contain_text("batch 1 to 4 · height 8 to 32 · width 8 to 32")
    playwright.expect(card).to_contain_text("self-test: within noise")
    assert page.locator("article").count() == 2
    before = int(figures(page, "classify")["requests"])
    page.select_option("#model", "classify")
    page.click("#send")
    page.wait_for_selector(".output")
    page.wait_for_function(
        "count => document.querySelector('article dd').textContent === String(count)", arg=before + 1
    )
    assert figures(page, "classify")["failed, refused"] == "0, 0"
    assert page.complaints == []


def test_an_image_is_sent_as_chosen_and_its_scores_come_back(page, server, bundles, tmp_path):
    page.goto(server.url)
    page.select_option("#model", "classify")
    page.set_input_files("#inputs input[type=file]", png(tmp_path / "one.png", (204, 102, 51)))
    page.get_by_label("Scaled to").select_option("-1 to 1")
    page.click("#send")
    page.wait_for_selector(".output")
    shown = [row.locator("td").all_inner_texts() for row in page.locator(".output tbody tr").all()]
    grey = (0.299 * 204 + 0.587 * 102 + 0.114 * 51) / 255
    image = np.full((1, 1, 16, 16), (grey - 0.5) / 0.5, np.float32)
    with dyndeploy.open_session(bundles[0]) as session:
        (scores,) = session.run({"image": image})["output"]
    assert [int(index) for index, *_ in shown] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([float(value) for _, value, *_ in shown], sorted(scores)[::-1], rtol=2e-3, atol=1e-4)
    assert page.complaints == []


def test_a_map_is_shown_as_a_picture_of_the_chosen_size(page, server):
    page.goto(server.url)
    page.select_option("#model", "bend")
    page.get_by_label("height").fill("20")
    page.get_by_label("width").fill("28")
    page.click("#send")
    page.wait_for_selector(".output")
    playwright.expect(page.locator(".output h4")).to_have_text("output FP32 [1, 2, 20, 28]")
    canvas = page.locator(".output canvas")
    assert canvas.evaluate("c => [c.width, c.height]") == [28, 20]
    first = canvas.evaluate("c => c.toDataURL()")
    page.get_by_label("channel, of 2").fill("1")
    assert canvas.evaluate("c => c.toDataURL()") != first
    assert page.complaints == []


def test_a_refusal_is_shown_in_the_servers_words(page, server):
    page.goto(server.url)
    page.select_option("#model", "bend")
    page.evaluate("document.getElementById('try').noValidate = true")
    page.get_by_label("height").fill("64")
    page.click("#send")
    problem = page.locator("#try-problem")
    playwright.expect(problem).to_be_visible()
    playwright.expect(problem).to_contain_text("height")
    assert page.locator(".output").count() == 0


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_types_are_rounded_as_numpy_rounds(page, server, datatype):
    import ml_dtypes

    numbers = [0.0, -0.0, 1.0, -2.5, 1 / 3, 65504.0, 65519.0, 65520.0, 1e-7, 6e-8, 2.0**-14, 0.1, 2049.0, 1e30]
    numbers += np.random.default_rng(0).normal(scale=100, size=500).astype(np.float32).tolist()
    page.goto(server.url)
    program = """async ([datatype, numbers]) => {
        const { encode, decode } = await import("/page/dtypes.js");
        const bytes = encode(datatype, numbers);
        return [Array.from(new Uint16Array(bytes)), Array.from(decode(datatype, bytes), String)];
    }"""
    bits, back = page.evaluate(program, [datatype, numbers])
    dtype = np.float16 if datatype == "FP16" else ml_dtypes.bfloat16
    with np.errstate(over="ignore"):
        expected = np.array(numbers, np.float32).astype(dtype)
    assert bits == expected.view(np.uint16).tolist()
    assert [float(text.replace("Infinity", "inf")) for text in back] == expected.astype(np.float64).tolist()


def test_a_token_is_asked_for(page, bundles):
    with Server(bundles[:1], port=0, grpc_port=None, token=TOKEN) as server:
        page.goto(server.url)
        page.get_by_label("This server wants a token").fill("not-this-one")
        page.click("#login button")
        playwright.expect(page.locator("#login-problem")).to_have_text("That is not the token.")
        page.get_by_label("This server wants a token").fill(TOKEN)
        page.click("#login button")
        playwright.expect(page.locator("article .pill")).to_have_text("ready")
        page.click("#send")
        page.wait_for_selector(".output")


def test_narrow_and_dark(browser, server):
    page = browser.new_page(viewport={"width": 360, "height": 700}, color_scheme="dark")
    page.goto(server.url)
    page.wait_for_selector("article table")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 26)"
    page.close()


def test_it_is_small_and_its_own(server):
    """Nothing is loaded from elsewhere, which a policy enforces."""
    folder = Path(dyndeploy.__file__).parent / "serving" / "page"
    files = list(folder.iterdir())
    assert sum(file.stat().st_size for file in files) < 50_000
    for file in files:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file.name
