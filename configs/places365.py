"""Places-365: ResNet-50, 182 -> 365 classes.

The scene experiment of FastFill (arXiv 2303.04766; its abstract reports +2.7
mAP over earlier methods). Gallery and queries are the validation images.

  python -m fastfill_jax.main --config=configs/places365.py

Data: places365_small of TFDS as ArrayRecord, 29 GiB (README, "Data"). Time:
see `python -m fastfill_jax.cost --config=configs/places365.py`. Not run here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(form: str = '') -> ConfigDict:
  """The config, or with 'debug' a form that takes seconds."""
  c = base.get_config()
  c.name = 'places365'
  c.data.name = 'places365_small'
  c.encoders.old.class_fraction = 182 / 365
  for model in c.encoders.values():
    model.encoder.dtype = 'bfloat16'
  return base.finish(c, form, _shrink)


def _shrink(c: ConfigDict) -> ConfigDict:
  c.encoders.old.class_fraction = 0.5
  return base.shrink(c)
