r"""VGGFace2: identities, ArcFace, test identities never seen in training.

The face experiment of FastFill (arXiv 2303.04766; its abstract reports +1.3
mAP), by report 863 old identities -> 8,631; test identities are others, so the
new classifier knows none of the gallery's classes. TFDS no longer has the data
set: download it, unpack it to DIR/train/<identity>/*.jpg and
DIR/test/<identity>/*.jpg.

  python -m fastfill_jax.main --config=configs/vggface2.py \
    --config.run.data_dir=DIR

The biased update: old has a tenth of the images of women, groups read from
the identities' meta file,

  ... --config=configs/vggface2.py:biased --config.data.group_file=FILE.csv

a CSV with the columns identity,group. Not run here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(form: str = '') -> ConfigDict:
  """The config; 'debug' takes seconds, 'biased' cuts old's women."""
  c = base.get_config()
  c.name = 'vggface2'
  c.data.name = 'image_folder'
  # Test identities are classes too, 9,131 in all; training's come first.
  c.encoders.old.class_fraction = 863 / 9131
  for model in (c.encoders.old, c.encoders.new):
    model.head = ConfigDict({'name': 'arcface', 'scale': 64.0, 'margin': 0.5})
    model.label_smoothing = 0.0
    model.optimizer.learning_rate = 0.1
  for model in c.encoders.values():
    model.encoder.dtype = 'bfloat16'
  return base.finish(c, form, _shrink, biased=_biased)


def _biased(c: ConfigDict) -> ConfigDict:
  c.name = 'vggface2_biased'
  c.encoders.old.class_fraction = 1.0
  c.encoders.old.minority_fraction = 0.1
  c.data.minority = ('f',)
  return c


def _shrink(c: ConfigDict) -> ConfigDict:
  c.encoders.old.class_fraction = 0.5
  return base.shrink(c)
