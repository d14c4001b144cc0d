"""Environments: what wraps, collects from, restores and describes them. Needs Gymnasium; knows nothing of runs."""
