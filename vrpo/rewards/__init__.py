"""Rewards: a learned reward model and the noise that turns a clean reward into an observed one."""
