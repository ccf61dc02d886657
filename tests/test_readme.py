"""What the documentation says is true: its code runs and prints what it shows, its links lead somewhere."""

import contextlib
import io
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
#: As git sees them: what is ignored (environments, build folders) is not ours.
PAGES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
)
CODE = re.compile(r"```python\n(?P<code>.*?)```(?:\n+```text\n(?P<printed>.*?)```)?", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?!https?://|#)(?P<target>[^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("block", list(CODE.finditer(README)), ids=lambda match: match["code"].split("\n")[0])
def test_code_prints_what_is_shown(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block["code"], "README.md", "exec"), {})
    assert block["printed"] is not None, "show what it prints"
    assert printed.getvalue() == block["printed"]


#: Pages whose code has to run: those of the operators, block after block, as one program.
PROGRAMS = [page for page in PAGES if page.parent.parent == ROOT / "dyndeploy" / "ops"]


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.parent.name)
def test_an_operators_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in CODE.finditer(page.read_text()):
        exec(compile(block["code"], str(page), "exec"), names)


def test_there_is_code():
    assert CODE.search(README)
    assert len(PROGRAMS) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = [match["target"].strip() for match in LINK.finditer(page.read_text())]
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_pages_and_links_are_found():
    assert ROOT / "README.md" in PAGES
    assert "LICENSE" in [match["target"] for match in LINK.finditer(README)]


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = {
        name for page in PAGES for name in re.findall(r"(?:^ {4}|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= mentioned <= targets


def test_commands_exist():
    from dyndeploy.cli import app

    mentioned = {
        name
        for page in PAGES
        for name in re.findall(r"(?:^ {4}|`|\$ )dyndeploy ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert {"check", "demo", "doctor", "export", "inspect", "bench"} <= mentioned
    for name in sorted(mentioned):
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0, name


def test_the_support_matrix_names_tests_that_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs/support-matrix.md").read_text())
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_parameters_of_the_digits_are_counted_right():
    from dyndeploy.demo.network import DigitsNet

    count = sum(p.numel() for p in DigitsNet().parameters())
    assert f"({count:,} parameters)".replace(",", " ") in (ROOT / "export/digits/README.md").read_text()


def test_the_verdict_of_every_network_is_there():
    from dyndeploy.models import list_models

    rows = re.findall(r"^\| (\w+) \|", (ROOT / "docs/networks-exported.md").read_text(), re.MULTILINE)
    assert [row for row in rows if row != "network"] == list_models()


def test_the_command_that_made_the_weights_is_the_same_everywhere():
    command = "python export/digits/train.py --steps 3000 --output export/digits/digits.safetensors"
    for page in ("export/digits/README.md", "export/digits/train.py"):
        assert command in (ROOT / page).read_text()
