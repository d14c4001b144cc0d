"""Runs: train, resume, evaluate, export, and the directory that a run leaves behind."""
