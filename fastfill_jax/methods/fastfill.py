"""FastFill: error and class predicted, with an uncertainty (arXiv 2303.04766).

Section 4: the loss of an example is

  L = l2 + disc          squared error + cross-entropy of the new classifier
  1/2 exp(-s) L + 1/2 s  with s the log-variance that the network predicts

so that s comes to predict log L, by which the gallery is backfilled, largest
first. Every subset of it is a row of the paper's ablation.
"""

from fastfill_jax.methods import network

METHOD = network.Network(
  source='Jaeckle et al., ICLR 2023, arXiv 2303.04766',
  module=__name__,
  error={'l2': 1.0, 'disc': 1.0},
  uncertainty='example',
)
