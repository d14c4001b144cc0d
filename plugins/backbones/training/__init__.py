"""Training language models in torch: from scratch (pretraining) and from a larger model (distillation)."""
