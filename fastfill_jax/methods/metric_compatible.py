"""Metric-compatible training (Seo et al., WACV 2025, arXiv 2301.03767).

Distances to aligned and to new items are made of one scale: positives of
either half of the gallery must beat the negatives of both. The paper maps the
query into the old space and merges two rankings; here the gallery is mapped,
as everywhere in this table, so that one index serves both halves.
"""

from fastfill_jax.methods import network

METHOD = network.Network(
  source='Seo et al., WACV 2025, arXiv 2301.03767',
  module=__name__,
  error={'l2': 1.0},
  terms={'metric_compatible': 1.0},
  uncertainty='example',
)
