"""CIFAR-100 as in the paper: ResNet-50 at 224 pixels, 50 -> 100 classes.

Reproduces FastFill's CIFAR-100 rows (arXiv 2303.04766): images resized to 224
pixels and flipped, both encoders ResNet-50 with 128-d embeddings; gallery and
queries are the 10,000 test images.

  python -m fastfill_jax.main --config=configs/cifar100.py

Form 'pixels32' keeps the images at 32 pixels, with a small-image stem, padded
crops and ResNet-18: some 40 times cheaper, another experiment. Time: see
`python -m fastfill_jax.cost --config=configs/cifar100.py`. Expected: the
published rows below; not run here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(form: str = '') -> ConfigDict:
  """The config; 'debug' takes seconds, 'pixels32' is the cheap variant."""
  c = base.get_config()
  c.name = 'cifar100'
  c.seeds = (0, 1, 2)
  c.data.name = 'cifar100'
  c.run.in_memory = True
  c.data.train_transform = ConfigDict({'name': 'resize_flip', 'size': 224})
  c.data.eval_transform = ConfigDict(
    {'name': 'resize_flip', 'size': 224, 'flip': 0.0}
  )
  for model in c.encoders.values():
    model.encoder.dtype = 'bfloat16'
  c.published = ConfigDict(PUBLISHED)
  return base.finish(c, form, base.shrink, pixels32=_pixels32)


def _pixels32(c: ConfigDict) -> ConfigDict:
  c.name = 'cifar100_pixels32'
  c.data.train_transform = ConfigDict({'name': 'pad_crop_flip'})
  c.data.eval_transform = ConfigDict({'name': 'none'})
  c.data.mean = base.CIFAR_MEAN
  c.data.std = base.CIFAR_STD
  for model in c.encoders.values():
    model.encoder.name = 'resnet18'
    model.encoder.stem = 'small'
  c.encoders.side.transform = ConfigDict(
    {'name': 'simclr', 'size': 32, 'strength': 0.5, 'blur': 0.0}
  )
  return c


_SOURCE = 'FastFill, released code'
PUBLISHED = {
  'old/old': {'cmc@1': 34.2, 'cmc@5': 60.6, 'mAP': 16.5, 'source': _SOURCE},
  'new/new': {'cmc@1': 56.5, 'cmc@5': 77.0, 'mAP': 36.3, 'source': _SOURCE},
  'l2 (FCT), random': {
    'cmc@1': 49.1,
    'cmc@5': 73.6,
    'mAP': 29.1,
    'source': _SOURCE,
  },
  'l2+disc+u (FastFill), sigma': {
    'cmc@1': 53.6,
    'cmc@5': 75.3,
    'mAP': 32.5,
    'source': _SOURCE,
  },
}
