"""Benchmarks by name: their questions, and what a policy's responses to them are worth."""
