"""Batches, masks and text: what the algorithm works on."""
