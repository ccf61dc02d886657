"""The operators: one folder each, described by `_spec`. Import `dyndeploy.ops.<folder>` for one, or `dyndeploy.nn` for layers."""
