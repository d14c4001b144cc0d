"""Tools for model files: convert, quantise, inspect, and probe what their features keep."""
