"""Responses sampled from a policy, of one turn or many."""
