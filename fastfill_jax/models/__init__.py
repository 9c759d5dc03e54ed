"""Encoders by name; the heads and the alignment network are modules beside it.

An encoder is a Linen module: `encoder.apply(variables, images, train)` maps
float images [batch, height, width, channel] to float32 embeddings
[batch, embedding]. A new one is one line in `ENCODERS`.
"""

import dataclasses
import functools
from typing import Any

from flax import linen as nn

from fastfill_jax import choices
from fastfill_jax.models import resnet, shallow, small, vit


def _resnet(*sizes, bottleneck=False):
  return functools.partial(
    resnet.ResNet, stage_sizes=sizes, bottleneck=bottleneck
  )


ENCODERS = {
  'resnet18': _resnet(2, 2, 2, 2),
  'resnet34': _resnet(3, 4, 6, 3),
  'resnet50': _resnet(3, 4, 6, 3, bottleneck=True),
  'resnet101': _resnet(3, 4, 23, 3, bottleneck=True),
  'vit_s16': functools.partial(vit.ViT, width=384, depth=12, num_heads=6),
  'vit_b16': functools.partial(vit.ViT, width=768, depth=12, num_heads=12),
  'vit_l16': functools.partial(vit.ViT, width=1024, depth=24, num_heads=16),
  'shallow': functools.partial(shallow.Shallow),
  'mlp': functools.partial(small.MLP),
  'cnn': functools.partial(small.CNN),
}
_DTYPES = ('float32', 'bfloat16')


def make_encoder(
  name: str,
  *,
  embedding_dim: int | None = 128,
  dtype: str = 'float32',
  axis_name: str | None = None,
  **options: Any,
) -> nn.Module:
  """Makes the encoder of this name.

  Args:
    name: a key of `ENCODERS`.
    embedding_dim: its width; None where the network has its own (ResNet, ViT).
    dtype: what is computed in, 'float32' or 'bfloat16'; parameters, BatchNorm
      statistics and the embedding are float32 either way.
    axis_name: the device axis over which BatchNorm takes its statistics.
    **options: more of the encoder's fields.

  Raises:
    ValueError: if the name, an option or the value of one is unknown.
  """
  choices.check('encoder', name, ENCODERS)
  choices.check('dtype', dtype, _DTYPES)
  if embedding_dim is not None and embedding_dim < 1:
    raise ValueError(f'embedding_dim={embedding_dim}; it must be positive.')
  constructor = ENCODERS[name]
  fields = {field.name for field in dataclasses.fields(constructor.func)}
  # Linen's own two fields, what the name fixes, and what every encoder has.
  taken = {'name', 'parent', 'embedding_dim', 'dtype', 'axis_name'}
  valid = sorted(fields - taken - set(constructor.keywords))
  choices.check_keys(f'encoder {name!r}', options, valid)
  if 'axis_name' in fields:
    options['axis_name'] = axis_name
  return constructor(embedding_dim=embedding_dim, dtype=dtype, **options)


def module_of(name: str) -> str:
  """The module that defines the encoder of this name."""
  return ENCODERS[name].func.__module__
