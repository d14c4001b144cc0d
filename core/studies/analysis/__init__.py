"""What quantising a backbone's weights does to an agent, measured: BitRL's theory (arXiv 2604.24273) as estimators."""
