"""The work of a config's stages, counted in the very steps that they run.

Nothing is run and, for the data sets of `DATA_SETS`, no data has to be there
(--config.data.name=vgg_face2 stands for its folders). A minority that is cut
is counted in full.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fastfill_jax import (
  align,
  data,
  dataset,
  embed,
  encoder,
  flops,
  models,
  parallel,
  side_information,
  training,
)
from fastfill_jax.models import alignment, heads

# The exact sweep takes 2.2 to 3.4 times its two matrix products on CPUs and
# 4.3 times in JAX (benchmarks/sweep.py).
SWEEP_UTILISATION = 0.25
_SWEPT_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class DataSize:
  """Examples of the training split and of the gallery; shape as stored."""

  train: int
  gallery: int
  num_classes: int
  image_shape: tuple[int, int, int]


DATA_SETS = {
  'cifar100': DataSize(50_000, 10_000, 100, (32, 32, 3)),
  'imagenet2012': DataSize(1_281_167, 50_000, 1_000, (375, 500, 3)),
  'places365_small': DataSize(1_803_460, 36_500, 365, (256, 256, 3)),
  'stanford_online_products': DataSize(59_551, 60_502, 22_634, (512, 512, 3)),
  'vgg_face2': DataSize(3_141_890, 169_396, 9_131, (256, 256, 3)),
}


@dataclasses.dataclass(frozen=True)
class Program:
  """What devices run again and again in a stage.

  Attributes:
    function: To be pmapped, or with all arguments replicated.
    args: Its arguments, trees of `jax.ShapeDtypeStruct`.
    in_axes: As pmap's: 0 for an argument that is split over the devices.
    out_axes: As pmap's.
    times: How often it is run, over all seeds.
  """

  function: Callable
  args: tuple[Any, ...]
  in_axes: tuple[int | None, ...]
  out_axes: int | None
  times: float

  @functools.cached_property
  def work(self) -> flops.Work:
    """Of all times together."""
    once = flops.count(self.function, *self.args, axis_name=parallel.AXIS)
    return once * self.times


@dataclasses.dataclass(frozen=True)
class Stage:
  """The work of one stage, over all seeds.

  Attributes:
    name: As in the config's stages.
    parameters: Of its networks.
    examples: How many pass through it.
    programs: What it runs.
    dtype: Of its matrix products.
    images: How many images the hosts read and decode for it.
    utilisation: None: the hardware's.
  """

  name: str
  parameters: int
  examples: int
  programs: tuple[Program, ...]
  dtype: str = 'float32'
  images: int = 0
  utilisation: float | None = None

  @functools.cached_property
  def work(self) -> flops.Work:
    return sum((program.work for program in self.programs), flops.Work())


def data_size(config: ConfigDict) -> DataSize:
  """Sizes of the config's data set, opened only if they are not known.

  Raises:
    ValueError: If a split is empty, or missing where it has to be there.
  """
  base = config.data.name.partition(':')[0]
  if base in DATA_SETS:
    return DATA_SETS[base]
  train = dataset.open_split(config, config.data.train_split)
  gallery = dataset.open_split(config, config.data.gallery_split)
  return DataSize(
    len(train),
    len(gallery),
    train.num_classes,
    dataset.image(train, 0).shape,
  )


def stages(config: ConfigDict, size: DataSize) -> list[Stage]:
  """The config's stages in their order; closed forms are free.

  Raises:
    ValueError: If the config has embeddings but no encoders.
  """
  if config.embed.source:
    raise ValueError('Costs are those of encoders; embed.source has none.')
  encoder_runs = 1 if config.share_encoders else len(config.seeds)
  found = [
    encoder_stage(config, which, size, encoder_runs)
    for which in ('old', 'new', *(('side',) if config.side.enabled else ()))
  ]
  found.append(embed_stage(config, size, encoder_runs))
  found.append(align_stage(config, size))
  found.append(evaluate_stage(config, size, encoder_runs))
  return found


def _images(transform: ConfigDict, size: DataSize, batch_size: int):
  """The shape of a batch of images, [batch, (view,) height, width, channel]."""
  image = np.zeros(size.image_shape, np.uint8)
  example = data.make_transform(**transform)(np.random.default_rng(0), image)
  return jax.ShapeDtypeStruct((batch_size, *example.shape), np.uint8)


def _labels(batch_size):
  return jax.ShapeDtypeStruct((batch_size,), np.int32)


def encoder_stage(
  config: ConfigDict, which: str, size: DataSize, runs: int
) -> Stage:
  """Training of the 'old', 'new' or 'side' encoder."""
  model = config[which]
  share = 1 - config.data.validation_fraction
  if which != 'side':
    # Classes are taken to be of one size.
    named = len(model.classes) / size.num_classes
    share *= named or model.class_fraction
  network = models.make_encoder(axis_name=parallel.AXIS, **model.encoder)
  optimizer, num_steps = encoder.make_optimizer(model, int(size.train * share))
  normalise = dataset.normaliser(config)
  batch_size = model.batch_size
  if which == 'side':
    head = heads.Projection(model.projection_dim)
    images = _images(model.transform, size, batch_size)
    step = side_information.make_step(
      network, head, optimizer, normalise, model.temperature
    )
  else:
    head = encoder.make_head(size.num_classes, **model.head)
    images = _images(config.data.train_transform, size, batch_size)
    step = encoder.make_step(
      network, head, optimizer, normalise, model.label_smoothing
    )
  single = jax.ShapeDtypeStruct((1, *images.shape[-3:]), jnp.float32)
  state = jax.eval_shape(
    lambda x: encoder.initialise(network, head, optimizer, x, seed=0), single
  )
  batch = {'image': images, 'label': _labels(batch_size)}
  examples = batch_size * num_steps * runs
  return Stage(
    which,
    flops.parameters(state.params),
    examples,
    (Program(step, (state, batch), (None, 0), None, num_steps * runs),),
    model.encoder.dtype,
    0 if config.data.in_memory else examples,
  )


def embed_stage(config: ConfigDict, size: DataSize, runs: int) -> Stage:
  """One pass of all encoders over the views and the gallery."""
  batch_size = parallel.round_up(config.embed.batch_size)
  images = _images(config.data.train_transform, size, batch_size)
  pixels = jax.ShapeDtypeStruct(images.shape, jnp.float32)
  names = ['old', 'new', *(('side',) if config.side.enabled else ())]
  variables = {}
  for name in names:
    network = models.make_encoder(**config[name].encoder)
    init = functools.partial(network.init, train=False)
    variables[name] = jax.eval_shape(init, jax.random.key(0), pixels)
  train = int(size.train * (1 - config.data.validation_fraction))
  # Queries of their own are taken to be as many as the gallery.
  splits = 2 if config.data.query_split else 1
  examples = runs * (config.embed.views * train + splits * size.gallery)
  function = embed.embed_function(config, names)
  times = examples / batch_size
  return Stage(
    'embed',
    sum(flops.parameters(held['params']) for held in variables.values()),
    examples,
    (Program(function, (variables, images), (None, 0), 0, times),),
    config.new.encoder.dtype,
    0 if config.data.in_memory else examples,
  )


def align_stage(config: ConfigDict, size: DataSize) -> Stage:
  """Training of every alignment network for every seed."""
  recipe = config.align
  train = int(size.train * (1 - config.data.validation_fraction))
  definitions = [x for x in config.alignments.values() if x.kind == 'network']
  if not definitions:
    return Stage('align', 0, 0, ())
  optimizer, num_steps = encoder.make_optimizer(recipe, train)
  times = num_steps * len(config.seeds)
  programs = tuple(
    _alignment_program(config, definition, size, optimizer, times)
    for definition in definitions
  )
  return Stage(
    'align',
    max(flops.parameters(program.args[0].params) for program in programs),
    recipe.batch_size * times * len(programs),
    programs,
  )


def _alignment_program(config, definition, size, optimizer, times):
  dims = {
    which: config[which].encoder.embedding_dim
    for which in ('old', 'new', *(('side',) if definition.side else ()))
  }
  network = alignment.Alignment(
    dims['new'],
    hidden_dim=config.align.hidden_dim,
    uncertainty=definition.uncertainty,
    axis_name=parallel.AXIS,
  )
  batch_size = config.align.batch_size
  batch = {
    which: jax.ShapeDtypeStruct((batch_size, dim), jnp.float32)
    for which, dim in dims.items()
  }
  variables = jax.eval_shape(
    network.init, jax.random.key(0), batch['old'], batch.get('side')
  )
  state = training.State(
    jax.ShapeDtypeStruct((), jnp.int32),
    variables['params'],
    variables['batch_stats'],
    jax.eval_shape(optimizer.init, variables['params']),
  )
  step = align.make_step(
    network,
    encoder.make_head(size.num_classes, **config.new.head),
    optimizer,
    definition,
    config.align.label_smoothing,
    train=True,
  )
  batch['label'] = _labels(batch_size)
  kernel = jax.ShapeDtypeStruct((dims['new'], size.num_classes), jnp.float32)
  return Program(step, (state, batch, kernel), (None, 0, None), None, times)


def evaluate_stage(config: ConfigDict, size: DataSize, runs: int) -> Stage:
  """Two matrix products a sweep: of each alignment, and of each pair's own."""
  dims = [config[which].encoder.embedding_dim for which in ('old', 'new')]
  references = 3 if dims[0] == dims[1] else 2
  sweeps = len(config.alignments) * len(config.seeds) + references * runs
  # One block of queries after the other.
  query = jax.ShapeDtypeStruct((_SWEPT_ROWS, max(dims)), jnp.float32)
  gallery = jax.ShapeDtypeStruct((size.gallery, max(dims)), jnp.float32)
  products = Program(
    lambda query, old, new: (query @ old.T, query @ new.T),
    (query, gallery, gallery),
    (0, None, None),
    0,
    sweeps * size.gallery / _SWEPT_ROWS,
  )
  return Stage(
    'evaluate',
    0,
    sweeps * size.gallery,
    (products,),
    utilisation=SWEEP_UTILISATION,
  )
