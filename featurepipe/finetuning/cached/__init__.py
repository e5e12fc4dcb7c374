"""Tuning from cached activations: what is frozen runs once, and the rest trains from what it gave."""
