"""A short turn of `make soak`: malformed requests, then clients that are killed while bundles are replaced."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("soak.py")


def test_a_short_soak():
    options = ["--requests", "500", "--minutes", "0.2", "--clients", "2", "--rate", "40", "--seed", "1"]
    done = subprocess.run([sys.executable, PROGRAM, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["problems"] == []
    assert sum(summary["fuzz"]["http"].values()) == 400
    assert sum(summary["fuzz"]["grpc"].values()) == 100
    soak = summary["soak"]
    assert soak["answered"] > 0
    assert min(soak["kills"], soak["reloads"]) >= 1
