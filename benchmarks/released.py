"""The released alignment, stated a second time, in PyTorch.

  python -m benchmarks.released --source=DIR
  python -m benchmarks.released --source=DIR --changes=linen,variance,...

FastFill (arXiv 2303.04766) as its authors released it: the network, PyTorch's
default initialisation of it, the losses and the recipe, sharing no line with
fastfill_jax but the sweep that scores both. DIR holds {old,new,label}.npy in
train/ and gallery/, and classifier.npy, the kernel [embedding, class] of the
new model. Prints the areas under the backfilling curves, and saves them; once
more for every change, each alone, by which an implementation may differ.

A seed takes most of an hour of a core, and little over a minute with
--hidden_dim=512 --batch_size=512 --epochs=20.
"""

import itertools
import pathlib
import time

import numpy as np
import torch
from absl import app, flags
from torch import nn
from torch.nn import functional

from benchmarks import table
from fastfill_jax import curve

_SOURCE = flags.DEFINE_string('source', None, 'Folder of embeddings.')
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Of weights and batches.')
_HIDDEN = flags.DEFINE_integer('hidden_dim', 2048, 'Width of the mixer.')
_BATCH = flags.DEFINE_integer('batch_size', 1024, 'Batch; the last is smaller.')
_EPOCHS = flags.DEFINE_integer('epochs', 80, 'Epochs.')
_CHANGES = flags.DEFINE_list('changes', ['none'], 'One run of the seeds each.')
_CSV = flags.DEFINE_string('csv', 'runs/benchmarks/released.csv', 'Output.')
flags.mark_flag_as_required('source')

_LEARNING_RATE = 5e-4
_WARMUP = 1 / 16  # of the epochs, 5 of 80
_WEIGHT_DECAY = 2**-15

CHANGES = {
  'none': 'as released',
  'linen': "Linen's initialisation: LeCun normal kernels, biases zero",
  'head': 'the uncertainty head from zero',
  'variance': 'running variances without the factor n / (n - 1)',
  'whole': 'no smaller last batch in an epoch',
  'epoch': 'the learning rate changes with the epochs, not the steps',
  'double': 'twice the epochs',
}


class PlainVariance(nn.BatchNorm1d):
  """BatchNorm whose running variance is that of the batches as they are."""

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Normalises, and takes the factor out of what was added."""
    kept = (1 - self.momentum) * self.running_var
    out = super().forward(x)
    if self.training:
      added = self.running_var - kept
      self.running_var = kept + added * (len(x) - 1) / len(x)
    return out


def dense(width_in: int, width_out: int, norm: type[nn.Module]) -> nn.Module:
  """A layer without bias, BatchNorm, ReLU."""
  linear = nn.Linear(width_in, width_out, bias=False)
  return nn.Sequential(linear, norm(width_out), nn.ReLU())


class Released(nn.Module):
  """The alignment network; without side-information old feeds both branches."""

  def __init__(self, old_dim: int, new_dim: int, hidden_dim: int, change: str):
    super().__init__()
    norm = PlainVariance if change == 'variance' else nn.BatchNorm1d
    self.old_branch, self.side_branch = (
      nn.Sequential(
        dense(old_dim, 2 * old_dim, norm), dense(2 * old_dim, 2 * new_dim, norm)
      )
      for _ in range(2)
    )
    self.mixer = nn.Sequential(
      dense(4 * new_dim, hidden_dim, norm),
      dense(hidden_dim, hidden_dim, norm),
      nn.Linear(hidden_dim, new_dim),
    )
    self.uncertainty = nn.Linear(new_dim, 1)
    if change == 'linen':
      for layer in self.modules():
        if isinstance(layer, nn.Linear):
          std = layer.in_features**-0.5 / 0.8796  # before it is truncated
          nn.init.trunc_normal_(layer.weight, 0, std, -2 * std, 2 * std)
          if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if change in ('linen', 'head'):
      nn.init.zeros_(self.uncertainty.weight)
      nn.init.zeros_(self.uncertainty.bias)

  def forward(self, old: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Old [batch, old] to aligned [batch, new] and log-variance [batch]."""
    branches = self.old_branch(old), self.side_branch(old)
    aligned = self.mixer(torch.cat(branches, dim=1))
    return aligned, self.uncertainty(aligned)[:, 0]


def loss(
  aligned: torch.Tensor,
  log_variance: torch.Tensor,
  new: torch.Tensor,
  label: torch.Tensor,
  classifier: torch.Tensor,
) -> torch.Tensor:
  """The batch's mean of 1/2 exp(-s) (l2 + disc) + 1/2 s."""
  l2 = ((aligned - new) ** 2).mean(dim=1)
  disc = functional.cross_entropy(
    aligned @ classifier,
    label,
    label_smoothing=0.1,
    reduction='none',
  )
  weight = torch.exp(-log_variance)
  return (0.5 * weight * (l2 + disc) + 0.5 * log_variance).mean()


def learning_rate(epochs: float, total: int) -> float:
  """The rate after so many epochs: linear warm-up, then a cosine to 0."""
  warmup = _WARMUP * total
  if epochs < warmup:
    return _LEARNING_RATE * epochs / warmup
  done = (epochs - warmup) / (total - warmup)
  return _LEARNING_RATE * (1 + np.cos(np.pi * done)) / 2


def train(
  old: torch.Tensor,
  new: torch.Tensor,
  label: torch.Tensor,
  classifier: torch.Tensor,
  seed: int,
  change: str,
) -> Released:
  """Trains the alignment; returns it in evaluation mode."""
  torch.manual_seed(seed)
  network = Released(old.shape[1], new.shape[1], _HIDDEN.value, change)
  optimizer = torch.optim.Adam(
    network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
  )
  epochs = _EPOCHS.value * (2 if change == 'double' else 1)
  batches = -(-len(old) // _BATCH.value)
  for epoch in range(epochs):
    # From the middle on BatchNorm is frozen; its scale and bias still learn.
    network.train(epoch < epochs // 2)
    rows = torch.randperm(len(old)).split(_BATCH.value)
    if change == 'whole':
      rows = rows[: len(old) // _BATCH.value]
    for number, batch in enumerate(rows):
      passed = epoch + number / batches
      if change == 'epoch':  # The first has the rate of the first step after.
        passed = epoch + 1 if epoch < _WARMUP * epochs else epoch
      optimizer.param_groups[0]['lr'] = learning_rate(passed, epochs)
      outputs = network(old[batch])
      value = loss(*outputs, new[batch], label[batch], classifier)
      optimizer.zero_grad()
      value.backward()
      optimizer.step()
  return network.eval()


def areas(
  aligned: np.ndarray,
  log_variance: np.ndarray,
  logits: np.ndarray,
  new: np.ndarray,
  labels: np.ndarray,
) -> dict[str, dict[str, float]]:
  """Areas in percent, of random, sigma and entropy; queries are the gallery."""
  p = np.exp(logits - logits.max(axis=1, keepdims=True))
  p /= p.sum(axis=1, keepdims=True)
  entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(axis=1)
  orders = {
    'random': np.random.default_rng(0).permutation(len(new)),
    'sigma': np.argsort(-log_variance, kind='stable'),
    'entropy': np.argsort(-entropy, kind='stable'),
  }
  ids = np.arange(len(new))
  cutoffs = curve.cutoffs(len(new))
  both = {'query_labels': labels, 'gallery_labels': labels}
  both |= {'query_ids': ids, 'gallery_ids': ids}
  order = np.stack(list(orders.values()))
  result = curve.sweep(new, aligned, new, orders=order, cutoffs=cutoffs, **both)
  return {
    name: {
      metric: round(100 * float(result[metric][row].mean()), 2)
      for metric in ('mAP', 'cmc@1')
    }
    for row, name in enumerate(orders)
  }


def main(argv):
  """Prints a table, and writes it as CSV."""
  del argv
  if unknown := set(_CHANGES.value) - set(CHANGES):
    raise ValueError(f'--changes: {sorted(unknown)}; there are {CHANGES}.')
  torch.set_flush_denormal(True)  # else training slows down to a tenth
  folder = pathlib.Path(_SOURCE.value)
  old, new, gallery_old, gallery_new, kernel = (
    np.load(folder / f'{name}.npy').astype(np.float32)
    for name in ('train/old', 'train/new', 'gallery/old', 'gallery/new')
    + ('classifier',)
  )
  label = np.load(folder / 'train/label.npy').astype(np.int64)
  gallery_label = np.load(folder / 'gallery/label.npy')
  tensors = [torch.from_numpy(x) for x in (old, new, label, kernel)]
  rows = []
  for change, seed in itertools.product(_CHANGES.value, map(int, _SEEDS.value)):
    start = time.perf_counter()
    network = train(*tensors, seed, change)
    seconds = round(time.perf_counter() - start)
    with torch.no_grad():
      outputs = network(torch.from_numpy(gallery_old))
    aligned, log_variance = (x.numpy() for x in outputs)
    logits = aligned @ kernel
    for order, area in areas(
      aligned, log_variance, logits, gallery_new, gallery_label
    ).items():
      row = {'change': change, 'seed': seed, 'order': order, **area}
      rows.append(row | {'seconds': seconds})
      print(rows[-1], flush=True)
  print(f'written to {table.write(_CSV.value, rows)}')


if __name__ == '__main__':
  app.run(main)
