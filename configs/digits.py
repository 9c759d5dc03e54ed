"""Scikit-learn's handwritten digits: the whole of FastFill in a minute.

The old encoder is a narrow perceptron that saw the digits 0 to 4 only, the new
one a small convolutional network that saw all ten; gallery and queries are the
797 test digits. Three seeds, each with encoders of its own.

  python -m fastfill_jax.main --config=configs/digits.py

`:rivals` puts later and earlier methods beside it: those of base.add_rivals,
and BCT and RACT, whose new encoders learn to fit the old one's gallery, and so
have its 16 dimensions. Time and expected numbers: see the README.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(form: str = '') -> ConfigDict:
  """The config, or with 'debug' a form that takes seconds."""
  c = base.get_config()
  c.name = 'digits'
  c.seeds = (0, 1, 2)
  c.share_encoders = False
  c.data.name = 'digits'
  c.run.in_memory = True
  c.data.mean = (0.305,)
  c.data.std = (0.376,)
  c.data.train_transform = ConfigDict({'name': 'small_shift'})
  c.data.eval_transform = ConfigDict({'name': 'none'})

  c.encoders.old.encoder = ConfigDict(
    {'name': 'mlp', 'widths': (16,), 'embedding_dim': 16, 'dtype': 'float32'}
  )
  c.encoders.new.encoder = ConfigDict(
    {'name': 'cnn', 'embedding_dim': 32, 'dtype': 'float32'}
  )
  for model in c.encoders.values():
    model.batch_size = 100
    model.num_epochs = 30
    model.warmup_epochs = 2
    model.optimizer = ConfigDict(
      {'name': 'adam', 'learning_rate': 2e-3, 'weight_decay': 2.0**-15}
    )
  c.encoders.side.encoder = ConfigDict(
    {'name': 'cnn', 'embedding_dim': 32, 'dtype': 'float32'}
  )
  # Mirrored digits are no digits.
  c.encoders.side.transform = ConfigDict(
    {'name': 'simclr', 'size': 8, 'min_scale': 0.5, 'flip': 0.0, 'blur': 0.0}
  )
  c.embed.dtype = 'float32'
  c.run.embed_batch_size = 200
  c.align.hidden_dim = 256
  c.align.batch_size = 100
  c.align.num_epochs = 40
  c.align.optimizer.learning_rate = 1e-3
  del c.alignments['identity']  # 16 and 32 dimensions
  c.serve.policies = ('random', 'sigma')
  c.evaluate.policies += ('gain',)  # the head-room of them all
  c.serve.k = 20
  c.run.log_every = 10
  return base.finish(c, form, _shrink, rivals=_rivals, sequence=_sequence)


def _rivals(c: ConfigDict) -> ConfigDict:
  c.name = 'digits_rivals'
  base.add_rivals(c)
  c.alignments['low rank, query (Drift-Adapter)'].options = {'rank': 8}
  for name, term in (('bct', 'influence'), ('ract', 'ract')):
    c.encoders[name] = base.compatible(c.encoders.new, term, 16)
    c.alignments[name.upper()] = base.row('identity', new=name)
  return c


def _sequence(c: ConfigDict) -> ConfigDict:
  c.name = 'digits_sequence'
  c.encoders.newer = c.encoders.new.copy_and_resolve_references()
  c.encoders.new.encoder = ConfigDict(
    {'name': 'cnn', 'widths': (8, 8), 'embedding_dim': 24, 'dtype': 'float32'}
  )
  c.encoders.new.class_fraction = 0.8
  for name in set(c.alignments) - {c.main_alignment}:
    del c.alignments[name]
  c.serve.policies = ()
  c.sequence.newer = 'newer'
  c.sequence.policies = ('random', 'sigma', 'entropy')
  return c


def _shrink(c: ConfigDict) -> ConfigDict:
  return base.shrink(c, image_size=8, channels=1, encoded=False)
