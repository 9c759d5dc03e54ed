"""Training on the gallery that will be searched: a half-backfilled one.

Beside FastFill's squared error with its uncertainty, the classes of a batch
are retrieved from a gallery of which a random share is backfilled already;
with `mask='none'`, from the aligned items alone.
"""

from fastfill_jax.methods import network

METHOD = network.Network(
  source='supervised contrast, arXiv 2004.11362, on a mixed gallery',
  module=__name__,
  error={'l2': 1.0},
  terms={'mixed': 1.0},
  uncertainty='example',
)
