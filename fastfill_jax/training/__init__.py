"""The training loop, its optimisers, what it logs; no model in it."""
