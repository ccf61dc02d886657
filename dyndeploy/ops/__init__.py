"""The operators: one folder each, described by `_spec`. `dyndeploy.nn` has the layers."""
