"""Studies: many runs that differ in what is compared, and the statistics of their results."""
