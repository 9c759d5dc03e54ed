"""Every key there is, at the values of FastFill's recipe for ImageNet.

Not meant to be run: the other configs import it and change a few lines. Their
`get_config('debug')` shrinks them to seconds on a CPU, on made-up images of
the same form (`shrink`).

Keys under `run` change how a run goes, never what comes out; a change of any
other key makes anew what depends on it.
"""

from collections.abc import Callable

from ml_collections import ConfigDict, config_dict

FASTFILL = 'l2+disc+u (FastFill)'
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR_MEAN = (0.507, 0.487, 0.441)
CIFAR_STD = (0.267, 0.256, 0.276)


def get_config() -> ConfigDict:
  """The base of all configs."""
  c = ConfigDict()
  c.name = 'base'
  # Each seed is a row of results; the table has their mean and deviation.
  c.seeds = (0,)
  # True: all seeds align the encoders of the first one. False: every seed
  # trains its own encoders too.
  c.share_encoders = True
  # In this order; results of the others have to be there.
  c.stages = (
    'encode',
    'embed',
    'align',
    'evaluate',
    'serve',
    'plan',
    'sequence',
    'report',
  )

  c.data = ConfigDict()
  c.data.name = 'imagenet2012'  # see data/opening.py
  c.data.options = ConfigDict()  # more of open_source's arguments
  c.data.train_split = 'train'
  c.data.gallery_split = 'test'
  c.data.query_split = ''  # '': the gallery, each query itself left out
  # Share of train_split kept out of training, for the encoders' accuracy and
  # their best checkpoint; 0 for none, as in the paper.
  c.data.validation_fraction = 0.0
  c.data.mean = IMAGENET_MEAN
  c.data.std = IMAGENET_STD
  c.data.train_transform = ConfigDict(
    {'name': 'random_resized_crop_flip', 'size': 224}
  )
  c.data.eval_transform = ConfigDict(
    {'name': 'resize_center_crop', 'resize': 256, 'size': 224}
  )
  # In place of eval_transform: the gallery and the queries come from another
  # source than what was trained on.
  c.data.gallery_transform = ConfigDict()
  # Numbers of classes that nothing is trained on, encoders and alignments
  # alike; they alone are then the gallery's and the queries'.
  c.data.held_out = ()
  # Subgroups of the report: a column of the data set and the values in it that
  # make the minority; or a CSV file with a group for every class.
  c.data.group_column = ''
  c.data.group_file = ''
  c.data.minority = ()

  # Encoders by name. Rows name two of them, by default 'old' and 'new'; what
  # no row reads is not trained.
  c.encoders = ConfigDict({'old': encoder(), 'new': encoder(), 'side': side()})
  c.encoders.old.class_fraction = 0.5

  # The encoders' outputs, computed once and kept on disk.
  c.embed = ConfigDict()
  # A folder of embeddings computed elsewhere (see stages/external.py): no
  # encoder runs, and encoders and data are not read.
  c.embed.source = ''
  c.embed.views = 8  # augmented views of every training image
  c.embed.dtype = 'float16'

  c.align = ConfigDict()
  c.align.hidden_dim = 2048
  c.align.label_smoothing = 0.1
  c.align.batch_size = 1024
  c.align.num_epochs = 80
  c.align.warmup_epochs = 5
  c.align.freeze_batch_norm = 0.5  # from this share of the epochs on
  c.align.optimizer = ConfigDict(
    {'name': 'adam', 'learning_rate': 5e-4, 'weight_decay': 2.0**-15}
  )
  # The rows of the table: a method of `methods.METHODS`, and what of it is
  # changed; `old`, `new`: other encoders; `fuse`: the share of the aligned
  # embedding that a backfilled item keeps.
  c.alignments = ConfigDict(
    {
      'identity': row('identity'),
      'procrustes': row('procrustes'),
      'ridge': row('ridge'),
      'l2 (FCT)': row('fct'),
      'disc': loss(0, 1, 'none'),
      'l2+disc': loss(1, 1, 'none'),
      'l2+u': loss(1, 0, 'example'),
      'disc+u': loss(0, 1, 'example'),
      FASTFILL: row('fastfill'),
      'l2+disc+u per coordinate': loss(1, 1, 'coordinate'),
      'mixfill (ours)': row('mixfill'),
    }
  )
  c.main_alignment = FASTFILL  # of the report's main figure

  c.evaluate = ConfigDict()
  c.evaluate.policies = (
    'random',
    'sigma',
    'entropy',
    'sigma_entropy',
    'neighbour_entropy',
    'sigma_neighbours',
    'class_mean_predicted',
    'prototype',
    'class_mean',
    'distance',
  )
  c.evaluate.steps = 20  # cut-offs between 0 and all: 22 in all
  c.evaluate.distance = 'l2'

  # A live ScaNN index, upserted in the order of these policies of the main
  # alignment; none by default.
  c.serve = ConfigDict()
  c.serve.policies = ()
  c.serve.index = 'auto'  # ScaNN on Linux, else exact
  c.serve.k = 100  # neighbours it returns

  # A second update, of the main alignment, to this encoder; '' for none.
  c.sequence = ConfigDict()
  c.sequence.newer = ''
  # Shares of the first backfill at which the second begins.
  c.sequence.switches = (0.0, 0.25, 0.5, 0.75, 1.0)
  c.sequence.policies = ('random', 'sigma')

  # Published scores in percent: {row: {metric: value}}.
  c.published = ConfigDict()

  c.run = ConfigDict()
  c.run.data_dir = config_dict.placeholder(str)
  c.run.label_dir = ''  # cached labels of large data sets; '': WORKDIR/labels
  c.run.in_memory = False  # decode everything once: small images only
  c.run.anew = False  # results of other code are made again
  c.run.embed_batch_size = 1024
  c.run.log_every = 50
  c.run.checkpoint_every = 500
  c.run.evaluate_every = 5000
  c.run.num_workers = 0  # data processes; 0: threads of this one
  c.run.sweep_backend = 'auto'
  c.run.memory_limit = 2**30  # bytes the sweep may use
  c.run.profile = ''  # a folder for XLA traces of every training's first steps
  return c


def encoder() -> ConfigDict:
  """The recipe of one encoder."""
  c = ConfigDict()
  c.encoder = ConfigDict(
    {
      'name': 'resnet50',
      'embedding_dim': 128,
      'stem': 'imagenet',
      'dtype': 'float32',
    }
  )
  c.head = ConfigDict({'name': 'linear'})
  # Its loss: terms of methods/encoder_terms.py by weight, or by a dict of
  # 'weight' and options.
  c.terms = ConfigDict({'classify': 1.0})
  c.teacher = ''  # a frozen encoder that terms read
  c.start = ''  # an encoder to start from
  c.transform = ConfigDict()  # in place of data.train_transform
  c.class_fraction = 1.0  # of the classes, the first ones
  c.classes = ()  # their numbers instead, if any
  c.minority_fraction = 1.0  # of the minority's examples that it sees
  c.label_smoothing = 0.1
  c.batch_size = 1024
  c.num_epochs = 100
  c.warmup_epochs = 5
  c.optimizer = ConfigDict(
    {
      'name': 'sgd',
      'learning_rate': 1.024,
      'momentum': 0.875,
      'weight_decay': 2.0**-15,
    }
  )
  return c


def side() -> ConfigDict:
  """Side-information: an encoder trained on images alone (SimCLR)."""
  c = encoder()
  c.head = ConfigDict({'name': 'projection', 'dim': 128})
  c.terms = ConfigDict({'simclr': {'temperature': 0.1}})
  c.transform = ConfigDict({'name': 'simclr', 'size': 224})
  return c


def row(method: str, **changes) -> ConfigDict:
  """A row of the table: a method, and what of it is changed."""
  return ConfigDict({'method': method} | changes)


def loss(
  l2: float, disc: float, uncertainty: str, method: str = 'fastfill'
) -> ConfigDict:
  """FastFill with other weights: a subset of its loss."""
  weights = {'l2': float(l2), 'disc': float(disc)}
  changed = {} if uncertainty == 'example' else {'uncertainty': uncertainty}
  return row(method, error=weights, **changed)


def finish(
  c: ConfigDict,
  form: str,
  debug: Callable[[ConfigDict], ConfigDict],
  **forms: Callable[[ConfigDict], ConfigDict],
) -> ConfigDict:
  """Applies the form of `--config=PATH.py:FORM`; '' is none.

  Raises:
    ValueError: If there is no such form.
  """
  forms = {'debug': debug, 'side': add_side} | forms
  if not form:
    return c
  if form not in forms:
    raise ValueError(f'{c.name} has no form {form!r}, only {sorted(forms)}.')
  return forms[form](c)


def add_side(c: ConfigDict) -> ConfigDict:
  """Adds the rows of FCT and FastFill with side-information."""
  c.alignments['l2 (FCT) + side'] = row('fct', side=True)
  c.alignments[f'{FASTFILL} + side'] = row('fastfill', side=True)
  return c


def add_rivals(c: ConfigDict, labels: bool = True) -> ConfigDict:
  """Puts what others do with pairs beside the floor, FCT and FastFill.

  Args:
    c: The config.
    labels: Whether labels and the new classifier are there to be read.
  """
  kept = {'procrustes', 'ridge', 'l2 (FCT)', 'l2+u'}
  kept |= {FASTFILL} if labels else set()
  for name in set(c.alignments) - kept:
    del c.alignments[name]
  c.evaluate.policies = (
    'random',
    'sigma',
    'entropy',
    'class_mean',
    'class_mean_cosine',
  )
  rows = {
    'procrustes, query': row('procrustes', acts_on='query'),
    'low rank, query (Drift-Adapter)': row('low_rank'),
    'residual, query (Drift-Adapter)': row('residual'),
    'l2+u+InfoNCE': row('info_nce'),
  }
  if labels:
    aligned_only = {'mixed': {'weight': 1.0, 'mask': 'none'}}
    rows |= {
      'l2+u+contrastive': row('mixed', terms=aligned_only),
      'l2+u+mixed': row('mixed'),
      'l2+u+metric-compatible': row('metric_compatible'),
      'orthogonal': row('orthogonal'),
      'lambda-orthogonal': row('lambda_orthogonality'),
    }
  c.alignments.update(rows)
  return c


def compatible(new: ConfigDict, term: str, width: int) -> ConfigDict:
  """The new encoder, trained by one more term to fit the old one's gallery."""
  c = new.copy_and_resolve_references()
  c.encoder.embedding_dim = width
  c.terms[term] = 1.0
  c.teacher = 'old'
  return c


def shrink(c: ConfigDict, image_size: int = 32, **options) -> ConfigDict:
  """Turns a config into its debug form: all stages in seconds on a CPU.

  Args:
    c: The config.
    image_size: Of the made-up images.
    **options: More of data.sources.Fake's.
  """
  c.name = f'{c.name}_debug'
  c.seeds = c.seeds[:1]
  c.data.name = 'fake'
  c.data.options = ConfigDict(
    {
      'image_size': image_size,
      'num_classes': 8,
      'train_examples': 96,
      'test_examples': 48,
      'encoded': True,
    }
    | options
  )
  transforms = [
    c.data.train_transform,
    c.data.eval_transform,
    c.data.gallery_transform,
  ]
  for model in c.encoders.values():
    model.batch_size = 32
    model.num_epochs = 2
    model.warmup_epochs = 1
    model.optimizer.learning_rate = 0.01
    if model.encoder.name.startswith(('resnet', 'shallow')):
      # Deep networks would take longer to compile than to train.
      tiny = {'name': 'cnn', 'embedding_dim': 16, 'widths': (8, 8)}
      model.encoder = ConfigDict(tiny | {'dtype': model.encoder.dtype})
    transforms.append(model.transform)
  for transform in transforms:
    for size in {'size', 'resize'} & set(transform):
      transform[size] = image_size
  c.embed.views = 2
  c.align.hidden_dim = 32
  c.align.batch_size = 32
  c.align.num_epochs = 2
  c.align.warmup_epochs = 1
  kept = ('ridge', 'l2 (FCT)', c.main_alignment)
  for name in set(c.alignments) - set(kept):
    del c.alignments[name]
  c.serve.k = 5
  c.run.embed_batch_size = 16
  c.run.log_every = 1
  return c
