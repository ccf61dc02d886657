"""The way of a model, one module per step: recipe, export, check, bench, inspect, doctor."""
