"""The biased update on CIFAR-100: the old model hardly saw a minority.

FastFill's abstract (arXiv 2303.04766): when the old model is biased against a
subgroup, the subgroup's gap vanishes after a small backfilled part. Here both
models know all classes, but the old one has a tenth of the examples of four
superclasses; the report gives the subgroups' scores and their gap.

  python -m fastfill_jax.main --config=configs/cifar100_biased.py

Encoders and time as in cifar100_small.
"""

from ml_collections import ConfigDict

from configs import base, cifar100_small


def get_config(form: str = '') -> ConfigDict:
  """The config, or with 'debug' a form that takes seconds."""
  c = cifar100_small.get_config()
  c.name = 'cifar100_biased'
  c.encoders.old.class_fraction = 1.0
  c.encoders.old.minority_fraction = 0.1
  c.data.group_column = 'coarse_label'
  c.data.minority = (0, 5, 10, 15)
  return base.finish(c, form, _shrink)


def _shrink(c: ConfigDict) -> ConfigDict:
  c.data.minority = (0,)
  return base.shrink(c, num_groups=4)
