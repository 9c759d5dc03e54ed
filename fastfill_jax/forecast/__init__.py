"""Forecast and plan of a backfill, for people without labels.

upgrade = forecast.Upgrade().fit(old, new)
aligned = upgrade.transform(gallery)
first = upgrade.order(gallery)
"""

from fastfill_jax.forecast.estimator import Upgrade

__all__ = ['Upgrade']
