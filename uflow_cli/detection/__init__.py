"""From evidence per cell to regions, masks and verdicts. Logarithms are base 10, low is anomalous."""
