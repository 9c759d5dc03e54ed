"""CIFAR-100 for two CPU cores: shallow networks, 50 -> 100 classes.

The paper's protocol (first half of the classes -> all, test split as gallery
and queries) with encoders that learn as much as two cores can teach in an hour:
shallow and wide, trained by Muon. Three seeds of the alignment share one pair
of encoders.

  python -m fastfill_jax.main --config=configs/cifar100_small.py

`:open` keeps 20 classes for the gallery that nothing is trained on; `:shifted`
takes the gallery's images from another source. Time and numbers: see the
README. They are not the paper's: the encoders are far smaller.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(form: str = '') -> ConfigDict:
  """The config, or with 'debug' a form that takes seconds."""
  c = base.get_config()
  c.name = 'cifar100_small'
  c.seeds = (0, 1, 2)
  c.data.name = 'cifar100'
  c.run.in_memory = True
  c.data.validation_fraction = 0.02
  c.data.mean = base.CIFAR_MEAN
  c.data.std = base.CIFAR_STD
  c.data.train_transform = ConfigDict({'name': 'pad_crop_flip'})
  c.data.eval_transform = ConfigDict({'name': 'none'})
  c.encoders.side.transform = ConfigDict(
    {'name': 'simclr', 'size': 32, 'strength': 0.5, 'blur': 0.0}
  )
  for model in c.encoders.values():
    model.encoder = ConfigDict(
      {
        'name': 'shallow',
        'embedding_dim': 128,
        'products': True,
        'dtype': 'float32',
      }
    )
    model.batch_size = 512
    model.warmup_epochs = 2
    model.optimizer = ConfigDict(
      {
        'name': 'muon',
        'learning_rate': 0.02,
        'momentum': 0.95,
        'weight_decay': 0.01,
      }
    )
  c.encoders.old.num_epochs = 8
  c.encoders.new.num_epochs = 12
  c.encoders.side.num_epochs = 8
  c.embed.views = 2
  c.run.embed_batch_size = 256
  c.align.hidden_dim = 512
  c.align.batch_size = 512
  c.align.num_epochs = 20
  c.align.warmup_epochs = 2
  kept = ('procrustes', 'ridge', 'l2 (FCT)', 'l2+u', base.FASTFILL)
  for name in set(c.alignments) - {*kept, 'mixfill (ours)'}:
    del c.alignments[name]  # digits and cifar100 have them.
  # These encoders' cross-entropy is over ten times their squared error, so
  # the row with the paper's equal weights is given another one beside it.
  c.alignments['10 l2+disc+u'] = base.loss(10, 1, 'example')
  c.serve.policies = ('random', 'sigma')
  # One learnt on training items, and the head-room of them all.
  c.evaluate.policies += ('learnt_gain', 'gain')
  return base.finish(c, form, base.shrink, open=_open, shifted=_shifted)


def _open(c: ConfigDict) -> ConfigDict:
  """80 classes for all trainings, of which old saw 40; the gallery's others."""
  c.name = 'cifar100_small_open'
  c.data.held_out = tuple(range(80, 100))
  c.encoders.old.class_fraction = 0.4
  return c


def _shifted(c: ConfigDict) -> ConfigDict:
  """A gallery of another source than what everything was trained on."""
  c.name = 'cifar100_small_shifted'
  c.data.gallery_transform = ConfigDict({'name': 'shifted'})
  return c
