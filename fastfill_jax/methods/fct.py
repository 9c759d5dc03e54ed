"""FCT: the network and the squared error alone (arXiv 2112.02805)."""

from fastfill_jax.methods import network

METHOD = network.Network(
  source='Ramanujan et al., CVPR 2022, arXiv 2112.02805',
  module=__name__,
  error={'l2': 1.0},
)
