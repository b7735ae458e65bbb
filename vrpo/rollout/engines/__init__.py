"""Engines that sample, one a module: `generation.engine: x` is the `Sampler` that `x.py` here defines."""
