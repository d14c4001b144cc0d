"""Model files: GGUF and Hugging Face checkpoints read with bounds checks, and the tokenizer they carry."""
