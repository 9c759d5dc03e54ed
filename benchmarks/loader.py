"""Images a second that a host core decodes and augments, beside its rivals.

  python -m benchmarks.loader --cores=1,2

Every pipeline reads JPEG files' bytes from memory, crops a random part
(8-100% of the area), resizes it to 224x224, mirrors half of them, and yields
uint8 batches of 128. Each runs in a process of its own, bound to the first
cores; a rival that is not installed is skipped. Images per second of processor
time ('/CPU s') say what a core does even where others keep it busy. For all:
  pip install 'tensorflow-cpu~=2.20.0' torch
The images are random textures with the spectrum of photographs, in the two
sizes and file sizes that are usual: already small, and ImageNet's average.
"""

import csv
import functools
import importlib.util
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import cv2
import numpy as np
from absl import app, flags

from fastfill_jax.data import loading, sources, transforms

_CORES = flags.DEFINE_list('cores', ['1', '2'], 'Numbers of cores.')
_SECONDS = flags.DEFINE_float('seconds', 6, 'Time for one figure.')
_CSV = flags.DEFINE_string('csv', 'runs/benchmarks/loader.csv', 'Output.')
_ONLY = flags.DEFINE_string('only', None, 'Internal: one pipeline.')
_SIZE = flags.DEFINE_string('size', None, 'Internal: its images.')

_BATCH = 128
_IMAGES = 256
_SIZES = {'224x224': (224, 224, 96), '500x375': (375, 500, 96)}


@functools.cache
def make_jpegs(size: str) -> tuple[bytes, ...]:
  """Draws textures whose contrast falls with frequency, as in photographs."""
  height, width, quality = _SIZES[size]
  files = []
  for seed in range(_IMAGES):
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128.0)
    for octave in range(2, 10):
      # Mostly brightness, a little colour.
      side, contrast = 2**octave, 180 / 2 ** (0.55 * octave)
      noise = rng.normal(0, contrast, (side, side, 1))
      noise = noise + rng.normal(0, contrast / 3, (side, side, 3))
      image += cv2.resize(noise, (width, height))
    pixels = image.clip(0, 255).astype(np.uint8)
    option = [cv2.IMWRITE_JPEG_QUALITY, quality]
    files.append(cv2.imencode('.jpg', pixels, option)[1].tobytes())
  return tuple(files)


class _Jpegs(sources.Source):
  """The files in memory; made anew in every worker process."""

  def __init__(self, size: str):
    super().__init__(np.arange(_IMAGES), ['none'])
    self._size = size

  def __getitems__(self, rows):
    files = make_jpegs(self._size)
    return [{'image': files[row], 'label': 0} for row in rows]


def run_ours(size: str, cores: int, num_workers: int = 0) -> Iterator:
  """This project's loader, by threads unless worker processes are asked for."""
  return loading.loader(
    _Jpegs(size),
    np.arange(_IMAGES),
    transforms.make_transform('random_resized_crop_flip', size=224),
    batch_size=_BATCH,
    seed=0,
    num_threads=1 if num_workers else cores,
    num_workers=num_workers,
  )


def run_ours_processes(size: str, cores: int) -> Iterator:
  """The same, in as many worker processes as cores."""
  return run_ours(size, cores, num_workers=cores)


def run_tf_data(size: str, cores: int) -> Iterator:
  """TensorFlow's pipeline, decoding only the part that is cropped."""
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  import tensorflow as tf

  def augment(file):
    shape = tf.image.extract_jpeg_shape(file)
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
      shape,
      tf.zeros((1, 0, 4)),
      area_range=(0.08, 1.0),
      use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], extent[:2]], axis=0)
    image = tf.image.decode_and_crop_jpeg(file, window, channels=3)
    image = tf.image.resize(image, (224, 224))
    image = tf.image.random_flip_left_right(image)
    return tf.cast(image, tf.uint8)

  dataset = tf.data.Dataset.from_tensor_slices(list(make_jpegs(size)))
  dataset = dataset.shuffle(_IMAGES).repeat()
  dataset = dataset.map(augment, num_parallel_calls=cores)
  return dataset.batch(_BATCH).prefetch(2).as_numpy_iterator()


def run_pytorch(size: str, cores: int) -> Iterator:
  """PyTorch's DataLoader, with what torchvision does to Pillow images."""
  import io

  import PIL.Image
  import torch

  files = make_jpegs(size)

  def augment(file, rng):
    image = PIL.Image.open(io.BytesIO(file)).convert('RGB')
    area = image.width * image.height * rng.uniform(0.08, 1.0)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(round((area * ratio) ** 0.5), image.width)
    height = min(round((area / ratio) ** 0.5), image.height)
    left = rng.integers(image.width - width + 1)
    top = rng.integers(image.height - height + 1)
    image = image.crop((left, top, left + width, top + height))
    image = image.resize((224, 224), PIL.Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
      image = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image))

  class Jpegs(torch.utils.data.Dataset):
    def __len__(self):
      return 1000 * _IMAGES

    def __getitem__(self, row):
      return augment(files[row % _IMAGES], np.random.default_rng(row))

  return iter(
    torch.utils.data.DataLoader(
      Jpegs(), _BATCH, shuffle=True, num_workers=cores
    )
  )


# Name, the function, and the packages it needs.
_PIPELINES = {
  'ours, threads': (run_ours, ()),
  'ours, processes': (run_ours_processes, ()),
  'tf.data': (run_tf_data, ('tensorflow',)),
  'PyTorch DataLoader': (run_pytorch, ('torch',)),
}


def measure(name: str, size: str, cores: int) -> tuple[float, float]:
  """Times one pipeline in this process, which is bound to some cores."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
  make_jpegs(size)
  batches = _PIPELINES[name][0](size, cores)
  for _ in range(8):  # Compilation, start-up, and what was prefetched.
    next(batches)
  count, start, start_cpu = 0, time.perf_counter(), _cpu_seconds()
  while (took := time.perf_counter() - start) < _SECONDS.value:
    next(batches)
    count += _BATCH
  return count / took, count / (_cpu_seconds() - start_cpu)


def _cpu_seconds() -> float:
  """Processor time of this process and its workers."""
  total = time.process_time()
  for worker in multiprocessing.active_children():
    fields = pathlib.Path(f'/proc/{worker.pid}/stat').read_text().split()
    total += sum(map(int, fields[13:15])) / os.sysconf('SC_CLK_TCK')
  return total


def measure_apart(name: str, size: str, cores: int) -> list[float]:
  """Times one pipeline in a process of its own."""
  command = [sys.executable, '-m', 'benchmarks.loader']
  command += [f'--only={name}', f'--size={size}', f'--cores={cores}']
  command += [f'--seconds={_SECONDS.value}']
  result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
  return [float(word) for word in result.stdout.decode().split()[-2:]]


def main(argv):
  """Prints a table and writes it as CSV."""
  del argv
  cores = [int(number) for number in _CORES.value]
  if _ONLY.value:
    print(*measure(_ONLY.value, _SIZE.value, cores[0]), flush=True)
    for worker in multiprocessing.active_children():
      worker.terminate()
    os._exit(0)  # Endless pipelines leave threads that would be waited for.

  rows = []
  for size in _SIZES:
    kilobytes = round(np.mean([len(file) for file in make_jpegs(size)]) / 1000)
    print(f'\n{size} JPEG, {kilobytes} kB on average')
    print(f'{"pipeline":20} {"cores":>5} {"images/s":>9} {"/CPU s":>9}')
    for name, (_, packages) in _PIPELINES.items():
      if not all(importlib.util.find_spec(package) for package in packages):
        print(f'{name:20} skipped: needs {", ".join(packages)}')
        continue
      for n in cores:
        rates = measure_apart(name, size, n)
        print(f'{name:20} {n:5} {rates[0]:9.0f} {rates[1]:9.0f}', flush=True)
        rows.append((name, size, kilobytes, n, *rates))
  path = pathlib.Path(_CSV.value)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(
      ('pipeline', 'size', 'kB', 'cores', 'images_per_s', 'images_per_cpu_s')
    )
    writer.writerows(rows)
  print(f'\nwritten to {path}')


if __name__ == '__main__':
  app.run(main)
