"""A small data set as TFDS makes it."""

import cv2
import numpy as np
import tensorflow_datasets as tfds


def _png(value):
  return cv2.imencode('.png', np.full((4, 5, 3), value, np.uint8))[1].tobytes()


class Flowers(tfds.core.GeneratorBasedBuilder):
  """Ten images in two splits; the value of every pixel is its number."""

  VERSION = tfds.core.Version('2.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(4, 5, 3)),
          'label': tfds.features.ClassLabel(names=['rose', 'tulip', 'aster']),
          'coarse_label': tfds.features.ClassLabel(num_classes=2),
          'height': np.int64,
          'name': tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {
      'train': self._generate_examples(range(7)),
      'validation': self._generate_examples(range(7, 10)),
      'test': self._generate_examples([10], label=-1),
    }

  def _generate_examples(self, numbers, label=None):
    for number in numbers:
      yield (
        number,
        {
          'image': _png(number),
          'label': number % 3 if label is None else label,
          'coarse_label': number % 2,
          'height': number * 10,
          'name': f'flower {number}',
        },
      )


def write(path):
  """Prepares it under a data_dir."""
  builder = Flowers(data_dir=path, file_format='array_record')
  builder.download_and_prepare()
  return path
