"""Registers every custom op with torch; importing it is enough."""

import importlib

from dyndeploy.ops._spec import custom_ops

for _spec in custom_ops():
    importlib.import_module(_spec.module("op"))
