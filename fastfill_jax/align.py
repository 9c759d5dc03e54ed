"""Stage 'align': the maps from old to new embeddings, by config.

Trained networks (FastFill, arXiv 2303.04766, section 4; FCT, arXiv
2112.02805) and closed forms, from the arrays of the stage 'embed'.
"""

import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from fastfill_jax import (
  artifact,
  closed_form,
  dataset,
  embed,
  encoder,
  losses,
  pairs,
  parallel,
  training,
)
from fastfill_jax.models import alignment

# (old [row, old embedding], side or None) -> (aligned, log_variance or None)
Apply = Callable[
  [np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray | None]
]


def make(
  config: ConfigDict,
  workdir: pathlib.Path,
  name: str,
  embedded: artifact.Artifact,
  seed: int,
  preemption: parallel.Preemption,
) -> artifact.Artifact:
  """Fits the alignment `config.alignments[name]`, unless it is there."""
  fit = _train if config.alignments[name].kind == 'network' else _solve
  return artifact.make(
    workdir,
    f'align/{file_name(name)}/seed{seed}',
    settings(config, name, embedded, seed),
    functools.partial(fit, config, name, embedded, seed, preemption),
    allowed='align' in config.stages,
  )


def file_name(name: str) -> str:
  """An alignment's name without what a path cannot hold."""
  kept = ''.join(x if x.isalnum() or x in '+-_' else ' ' for x in name)
  return '_'.join(kept.split())


def settings(
  config: ConfigDict, name: str, embedded: artifact.Artifact, seed: int
) -> dict:
  """All that the alignment depends on."""
  held = {
    'alignment': config.alignments[name].to_dict(),
    'inputs': embedded.digest,
  }
  if config.alignments[name].kind == 'network':
    held |= {'recipe': config.align.to_dict(), 'seed': seed}
    held['head'] = config.new.head.to_dict()
  return held


def check(config: ConfigDict):
  """Raises a ValueError if an alignment's definition is wrong."""
  kinds = ('network', *closed_form.CLOSED_FORMS)
  for name, definition in config.alignments.items():
    if definition.kind not in kinds:
      raise ValueError(
        f'alignments[{name!r}].kind={definition.kind!r}; choose of {kinds}.'
      )
    if definition.kind == 'network':
      alignment.Alignment(1, uncertainty=definition.uncertainty)
      if min(definition.l2, definition.disc) < 0 or not (
        definition.l2 or definition.disc
      ):
        raise ValueError(
          f'alignments[{name!r}] has the weights l2={definition.l2} and '
          f'disc={definition.disc}; neither negative, one positive.'
        )
      if definition.side and not config.side.enabled:
        raise ValueError(
          f'alignments[{name!r}] uses side-information; set side.enabled=True.'
        )
  if not 0 <= config.align.freeze_batch_norm <= 1:
    raise ValueError(
      f'align.freeze_batch_norm={config.align.freeze_batch_norm}; a share of '
      'the epochs in [0, 1].'
    )
  widths = {config[model].encoder.embedding_dim for model in ('old', 'new')}
  if (
    not config.embed.source
    and len(widths) > 1
    and any(
      definition.kind == 'identity' for definition in config.alignments.values()
    )
  ):
    raise ValueError(
      'The identity needs encoders of one width, got embedding_dim='
      f'{config.old.encoder.embedding_dim} (old) and '
      f'{config.new.encoder.embedding_dim} (new); take it out of alignments.'
    )


def make_step(network, head, optimizer, definition, label_smoothing, train):
  """One step on FastFill's loss or a subset of it.

  Args:
    network: The alignment.
    head: The new model's classifier module, frozen; not used without kernel.
    optimizer: Of the network.
    definition: Weights l2 and disc.
    label_smoothing: Of the discriminative loss.
    train: False: BatchNorm is frozen.

  Returns:
    step(state, batch, kernel) -> (state, metrics), to be pmapped; batch holds
    'old', 'new' and perhaps 'side' [batch, embedding] and 'label' [batch];
    kernel is W_new [embedding, class], an argument so that one program serves
    all seeds, or None if there is no classifier and no label.
  """

  def loss_fn(params, batch_stats, batch, kernel):
    batch = {
      name: x if name == 'label' else x.astype(jnp.float32)
      for name, x in batch.items()
    }
    (aligned, log_variance), updates = network.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch['old'],
      batch.get('side'),
      train=train,
      mutable=['batch_stats'],
    )
    metrics = {'l2': jnp.mean(losses.l2(aligned, batch['new']))}
    logits = None
    if kernel is not None:
      logits = head.apply({'params': {'kernel': kernel}}, aligned)
      disc = losses.cross_entropy(logits, batch['label'], label_smoothing)
      metrics['disc'] = jnp.mean(disc)
    loss = losses.fastfill(
      aligned,
      batch['new'],
      logits,
      batch.get('label'),
      log_variance,
      l2_weight=definition.l2,
      disc_weight=definition.disc,
      label_smoothing=label_smoothing,
    )
    metrics['loss'] = jnp.mean(loss)
    if log_variance is not None:
      metrics['log_variance'] = jnp.mean(log_variance)
    return metrics['loss'], (metrics, updates['batch_stats'])

  return functools.partial(training.update, optimizer, loss_fn)


def _train(config, name, embedded, seed, preemption, directory):
  definition, recipe = config.alignments[name], config.align
  kernel = embed.load_kernel(embedded)
  names = ['old', 'new']
  names += ['side'] if definition.side else []
  names += ['label'] if kernel is not None else []
  held = pairs.Pairs(embedded.directory, names)
  num_classes = 1 if kernel is None else kernel.shape[1]
  head = encoder.make_head(num_classes, **config.new.head)
  num_steps, init, running, frozen = _make_programs(
    FrozenConfigDict(recipe),
    FrozenConfigDict(definition),
    head,
    tuple((name, x.shape[1:]) for name, x in held.views[0].items()),
    held.size,
  )
  freeze_step = int(recipe.freeze_batch_norm * num_steps)

  def step_fn(step, state, batch):
    return (running if step < freeze_step else frozen)(state, batch, kernel)

  state = training.fit(
    init(jax.random.key(seed)),
    step_fn,
    lambda start: held.batches(recipe.batch_size, seed, start),
    num_steps=num_steps,
    directory=directory,
    name=file_name(name),
    settings=dataset.loop_settings(config),
    preemption=preemption,
  )
  artifact.save_variables(
    directory / 'variables.msgpack',
    {'params': state.params, 'batch_stats': state.batch_stats},
  )


@functools.cache  # All seeds run the same programs.
def _make_programs(recipe, definition, head, widths, size):
  """-> (number of steps, init, step with BatchNorm running, and frozen)."""
  optimizer, num_steps = encoder.make_optimizer(recipe, size)
  widths = dict(widths)
  network = alignment.Alignment(
    widths['new'][0],
    hidden_dim=recipe.hidden_dim,
    uncertainty=definition.uncertainty,
    axis_name=parallel.AXIS,
  )

  @jax.jit
  def init(key):
    example = {name: jnp.zeros((1, *width)) for name, width in widths.items()}
    variables = network.init(key, example['old'], example.get('side'))
    params, batch_stats = variables['params'], variables['batch_stats']
    return training.State(
      jnp.int32(0), params, batch_stats, optimizer.init(params)
    )

  running, frozen = (
    parallel.pmap(
      make_step(
        network,
        head,
        optimizer,
        definition,
        recipe.label_smoothing,
        train=train,
      ),
      in_axes=(None, 0, None),
      out_axes=None,
      donate=(0,),
    )
    for train in (True, False)
  )
  return num_steps, init, running, frozen


def _solve(config, name, embedded, seed, preemption, directory):
  del seed, preemption
  held = pairs.Pairs(embedded.directory, ('old', 'new'))
  moments = closed_form.collect(held.blocks())
  params = closed_form.CLOSED_FORMS[config.alignments[name].kind](moments)
  artifact.save_variables(directory / 'variables.msgpack', params._asdict())


def load(config: ConfigDict, name: str, fitted: artifact.Artifact) -> Apply:
  """The fitted alignment as a function of blocks of rows."""
  definition = config.alignments[name]
  variables = artifact.load_variables(fitted.directory / 'variables.msgpack')
  if definition.kind != 'network':
    params = closed_form.Affine(**variables)
    return lambda old, side: (
      closed_form.apply(params, old).astype(np.float32),
      None,
    )
  mapped = _make_apply(
    len(variables['params']['aligned']['bias']),
    config.align.hidden_dim,
    definition.uncertainty,
  )

  def padded(old, side):
    # Every block has one shape, so that one program serves all.
    rows = parallel.round_up(len(old))
    arrays = {'old': old} | ({'side': side} if definition.side else {})
    arrays = parallel.shard(
      {
        name: np.pad(x.astype(np.float32), ((0, rows - len(x)), (0, 0)))
        for name, x in arrays.items()
      }
    )
    out = mapped(variables, arrays['old'], arrays.get('side'))
    return jax.tree.map(lambda x: parallel.unshard(x)[: len(old)], out)

  return padded


@functools.cache
def _make_apply(new_dim, hidden_dim, uncertainty):
  network = alignment.Alignment(
    new_dim, hidden_dim=hidden_dim, uncertainty=uncertainty
  )

  def apply(variables, old, side):
    return network.apply(variables, old, side, train=False)

  return parallel.pmap(apply, in_axes=(None, 0, 0), out_axes=0, local=True)
