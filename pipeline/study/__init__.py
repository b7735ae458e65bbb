"""Studies: grids of runs under one budget."""
