"""The way of a model, one module per step: recipe, export, bundle, check, bench, inspect, doctor."""
