"""Backfills a store that is serving: `python -m fastfill_jax.backfill -h`."""
