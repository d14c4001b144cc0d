"""What the BitRL paper says: the studies that measure it, and a verdict on each claim."""
