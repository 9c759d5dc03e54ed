"""ImageNet, the paper's main experiment: ResNet-50, 500 -> 1,000 classes.

Reproduces FastFill's ImageNet rows (arXiv 2303.04766): both encoders ResNet-50
with 128-d embeddings, the old one trained on the first 500 classes; gallery
and queries are the validation images.

  python -m fastfill_jax.main --config=configs/imagenet.py --workdir=gs-mount/in

Data: imagenet2012 of TFDS as ArrayRecord (README, "Data"). Time: see
`python -m fastfill_jax.cost --config=configs/imagenet.py`. Expected: the
published rows below; not run here. Form 'side' adds the rows with
side-information.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(form: str = '') -> ConfigDict:
  """The config; 'debug' takes seconds, 'side' adds side-information."""
  c = base.get_config()
  c.name = 'imagenet'
  c.seeds = (0, 1, 2)
  for model in c.encoders.values():
    model.encoder.dtype = 'bfloat16'
  c.published = ConfigDict(PUBLISHED)
  return base.finish(c, form, base.shrink)


_SOURCE = 'FastFill, released code'
PUBLISHED = {
  'old/old': {'cmc@1': 46.6, 'cmc@5': 65.2, 'mAP': 28.5, 'source': _SOURCE},
  'new/new': {'cmc@1': 68.2, 'cmc@5': 84.6, 'mAP': 45.3, 'source': _SOURCE},
  'l2 (FCT), random': {
    'cmc@1': 62.8,
    'cmc@5': 81.1,
    'mAP': 40.5,
    'source': _SOURCE,
  },
  'l2+disc+u (FastFill), sigma': {
    'cmc@1': 66.5,
    'cmc@5': 83.6,
    'mAP': 44.8,
    'source': _SOURCE,
  },
  'l2 (FCT) + side, random': {
    'cmc@1': 64.7,
    'cmc@5': 82.4,
    'mAP': 42.6,
    'source': _SOURCE,
  },
  'l2+disc+u (FastFill) + side, sigma': {
    'cmc@1': 67.8,
    'cmc@5': 84.2,
    'mAP': 46.2,
    'source': _SOURCE,
  },
}
