"""Alignment without labels and classifier: InfoNCE (arXiv 1807.03748).

Beside FastFill's squared error with its uncertainty, a query must find its own
item before the others of the batch. It stands in for the discriminative loss
where the new model has no classifier.
"""

from fastfill_jax.methods import network

METHOD = network.Network(
  source='van den Oord et al., 2018, arXiv 1807.03748',
  module=__name__,
  error={'l2': 1.0},
  terms={'info_nce': 0.3},
  uncertainty='example',
)
