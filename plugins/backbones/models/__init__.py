"""The models that ship with the package: the starter model and its card."""
