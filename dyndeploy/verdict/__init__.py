"""How `check` judges a runtime: what it is measured with, its discrete choices, and the node to blame."""
