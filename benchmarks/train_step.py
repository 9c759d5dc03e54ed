"""Speed and utilisation of the encoders' training step, beside PyTorch.

  python -m benchmarks.train_step --batch_size=256

On an accelerator by default ResNet-50 on 224 pixels in bfloat16, on a CPU
ResNet-18 on 32 pixels in float32. The step is the one that the pipeline runs;
its batch lies on the device, so that input is not measured. PyTorch, if it is
installed, trains the same network, channels-last and under autocast.
Utilisation is the step's FLOPs, as XLA counts them before it optimises, over
those of a matrix product measured on the spot.
"""

import os
import statistics
import time

import jax
import numpy as np
from absl import app, flags

from benchmarks import table
from fastfill_jax import models, parallel
from fastfill_jax.data import dataset
from fastfill_jax.models import heads
from fastfill_jax.stages import counting, encode
from fastfill_jax.training import optim

_ENCODER = flags.DEFINE_string('encoder', None, 'Default: by the device.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', None, 'Pixels a side.')
_DTYPE = flags.DEFINE_enum('dtype', None, ['float32', 'bfloat16'], 'Products.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', None, 'Over all devices.')
_CLASSES = flags.DEFINE_integer('classes', 1000, 'Of the classifier.')
_STEPS = flags.DEFINE_integer('steps', 5, 'In one timing.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timings; the median counts.')
_COMPILE = flags.DEFINE_bool('torch_compile', False, 'Time it compiled too.')
_CSV = flags.DEFINE_string('csv', 'runs/benchmarks/train_step.csv', 'Output.')

RECIPE = {'learning_rate': 0.1, 'momentum': 0.875, 'weight_decay': 2.0**-15}
SMOOTHING = 0.1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def time_steps(step, wait) -> float:
  """Median seconds of one step; `wait` returns when all are done."""
  for _ in range(3):
    step()
  wait()
  times = []
  for _ in range(_REPEATS.value):
    start = time.perf_counter()
    for _ in range(_STEPS.value):
      step()
    wait()
    times.append((time.perf_counter() - start) / _STEPS.value)
  return statistics.median(times)


def product_speed(dtype: str) -> float:
  """FLOPs a second of the fastest of some square matrix products."""
  size = 2048 if parallel.is_cpu() else 8192
  matrix = jax.numpy.ones((size, size), dtype)
  product = jax.jit(jax.numpy.dot)
  product(matrix, matrix).block_until_ready()
  times = []
  for _ in range(5):
    start = time.perf_counter()
    product(matrix, matrix).block_until_ready()
    times.append(time.perf_counter() - start)
  return 2 * size**3 / min(times)


def make_jax(network, images, labels):
  """-> (step, wait, FLOPs of a step, parameters)."""
  head = heads.make_head(_CLASSES.value, name='linear')
  optimizer = optim.make_optimizer(
    'sgd', num_steps=10**6, warmup_steps=1, **RECIPE
  )
  normalise = dataset.normaliser({'mean': MEAN, 'std': STD})
  recipe = {'terms': {'classify': 1.0}, 'label_smoothing': SMOOTHING}
  step = encode.make_step(network, head, optimizer, normalise, recipe)
  state = encode.initialise(
    network, head, optimizer, normalise(images[:1]), seed=0
  )
  batch = {'image': images, 'label': labels}
  work = counting.flops(step, state, batch, {})
  mapped = parallel.pmap(
    step, in_axes=(None, 0, None), out_axes=None, donate=(0,)
  )
  place = parallel.pmap(lambda x: x, in_axes=0, out_axes=0)
  held = {'state': state, 'batch': place(parallel.shard(batch))}

  def run():
    held['state'], held['metrics'] = mapped(held['state'], held['batch'], {})

  def wait():
    jax.block_until_ready(held)

  count = sum(x.size for x in jax.tree.leaves(state.params))
  return run, wait, work, count


def make_torch(network, images, labels, compiled):
  """-> (step, wait, parameters) of the same training in PyTorch."""
  import torch
  from torch.nn import functional

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  # What JAX does by default.
  torch.backends.cuda.matmul.allow_tf32 = True
  torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  net = torch_resnet(network).to(device, memory_format=torch.channels_last)
  num_parameters = sum(x.numel() for x in net.parameters())
  model = torch.compile(net) if compiled else net
  optimizer = torch.optim.SGD(
    net.parameters(),
    lr=RECIPE['learning_rate'],
    momentum=RECIPE['momentum'],
    weight_decay=RECIPE['weight_decay'],
  )
  pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
  target = torch.from_numpy(labels).long().to(device)
  mean, std = (
    255 * torch.tensor(x, device=device)[:, None, None] for x in (MEAN, STD)
  )

  def run():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(
      device, torch.bfloat16, enabled=network.dtype == 'bfloat16'
    ):
      logits = model((pixels - mean) / std)
      loss = functional.cross_entropy(logits, target, label_smoothing=SMOOTHING)
    loss.backward()
    optimizer.step()

  def wait():
    if device == 'cuda':
      torch.cuda.synchronize()

  return run, wait, num_parameters


def torch_resnet(network):
  """The PyTorch form of a Linen ResNet, with its classifier."""
  import torch
  from torch import nn

  def convolution(width, channels, size, stride):
    return nn.Sequential(
      nn.Conv2d(width, channels, size, stride, size // 2, bias=False),
      nn.BatchNorm2d(channels),
    )

  class Block(nn.Module):
    def __init__(self, width, sizes):
      super().__init__()
      widths = [width, *(channels for channels, _, _ in sizes)]
      self.layers = nn.ModuleList(
        convolution(before, *size)
        for before, size in zip(widths, sizes, strict=False)
      )
      stride = max(stride for _, _, stride in sizes)
      self.shortcut = nn.Identity()
      if stride > 1 or widths[0] != widths[-1]:
        self.shortcut = convolution(width, widths[-1], 1, stride)

    def forward(self, images):
      x = self.layers[0](images)
      for layer in self.layers[1:]:
        x = layer(torch.relu(x))
      return torch.relu(x + self.shortcut(images))

  width = network.width
  if network.stem == 'imagenet':
    layers = [convolution(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
  else:
    layers = [convolution(3, width, 3, 1), nn.ReLU()]
  last = width
  for stage, blocks in enumerate(network.stage_sizes):
    channels = width * 2**stage
    for i in range(blocks):
      stride = 2 if stage and not i else 1
      out = channels * (4 if network.bottleneck else 1)
      if (stage + 1, i + 1) == (len(network.stage_sizes), blocks):
        out = network.embedding_dim
      if network.bottleneck:
        sizes = [(channels, 1, 1), (channels, 3, stride), (out, 1, 1)]
      else:
        sizes = [(channels, 3, stride), (out, 3, 1)]
      layers.append(Block(last, sizes))
      last = out
  layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
  return nn.Sequential(*layers, nn.Linear(last, _CLASSES.value, bias=False))


def measure() -> list[dict]:
  """One row per framework."""
  on_cpu = parallel.is_cpu()
  name = _ENCODER.value or ('resnet18' if on_cpu else 'resnet50')
  size = _IMAGE_SIZE.value or (32 if on_cpu else 224)
  dtype = _DTYPE.value or ('float32' if on_cpu else 'bfloat16')
  batch_size = _BATCH_SIZE.value or (32 if on_cpu else 256)
  parallel.check_batch_size(batch_size)
  options = {'stem': 'small' if size < 100 else 'imagenet'}
  network = models.make_encoder(
    name,
    dtype=dtype,
    axis_name=parallel.AXIS,
    **(options if name.startswith('resnet') else {}),
  )
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (batch_size, size, size, 3), np.uint8)
  labels = rng.integers(0, _CLASSES.value, batch_size, np.int32)

  before = product_speed(dtype)
  run, wait, step_flops, num_parameters = make_jax(network, images, labels)
  seconds = {'JAX': time_steps(run, wait)}
  if hasattr(network, 'products'):  # Its other way to compute convolutions
    run, wait, *_ = make_jax(network.clone(products=True), images, labels)
    seconds['JAX, products'] = time_steps(run, wait)
  ways = (False, True) if _COMPILE.value else (False,)
  for compiled in ways if name.startswith('resnet') else ():
    try:
      run, wait, theirs = make_torch(network, images, labels, compiled)
    except (ImportError, AttributeError) as error:
      print(f'No PyTorch row: {error}.')
      break
    if theirs != num_parameters:
      raise ValueError(f'{theirs} parameters in PyTorch, not {num_parameters}.')
    label = 'PyTorch, compiled' if compiled else 'PyTorch'
    seconds[label] = time_steps(run, wait)

  kind = jax.devices()[0].device_kind
  # The better of two: other work on the machine can only slow it down.
  peak = max(before, product_speed(dtype)) * parallel.device_count()
  return [
    {
      'framework': framework,
      'device': f'{parallel.device_count()} x {kind}',
      'encoder': name,
      'image_size': size,
      'dtype': dtype,
      'batch_size': batch_size,
      'ms_per_step': 1e3 * taken,
      'images_per_s': batch_size / taken,
      'tflops': step_flops / taken / 1e12,
      'of_measured_peak': step_flops / taken / peak,
    }
    for framework, taken in seconds.items()
  ]


def main(_):
  rows = measure()
  first = rows[0]
  print(
    f'{first["encoder"]}, {first["image_size"]} pixels, {first["dtype"]}, '
    f'batch {first["batch_size"]}, {first["device"]}, '
    f'load {os.getloadavg()[0]:.1f}'
  )
  print(f'{"":18} {"ms/step":>8} {"images/s":>9} {"TFLOP/s":>8} {"of GEMM":>8}')
  for row in rows:
    print(
      f'{row["framework"]:18} {row["ms_per_step"]:8.1f} '
      f'{row["images_per_s"]:9.1f} {row["tflops"]:8.3f} '
      f'{row["of_measured_peak"]:8.1%}'
    )
  path = table.write(_CSV.value, rows)
  print(path)


if __name__ == '__main__':
  app.run(main)
