"""Makes a ternary model from the first blocks of a full-precision one (BitDistill)."""
