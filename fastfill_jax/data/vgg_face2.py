"""The TFDS builder of folders of images, in VGGFace2's form.

TFDS finds a builder by its module, so it has one to itself; convert.py runs
it. TFDS's own VGGFace2 no longer exists.
"""

import tensorflow_datasets as tfds

from fastfill_jax.data import folders


class VggFace2(tfds.core.GeneratorBasedBuilder):
  """Writes folders of images as records, the files' bytes as they are."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, folder: str, **kwargs):
    """Keeps the folder of the splits; the rest is TFDS's."""
    self._folder = folder
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    names = folders.class_names(self._folder)
    return self.dataset_info_from_configs(
      description='Faces by identity (VGGFace2, Cao et al., FG 2018).',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(encoding_format='jpeg'),
          'label': tfds.features.ClassLabel(names=names),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      split: self._generate_examples(split)
      for split in folders.splits(self._folder)
    }

  def _generate_examples(self, split: str):
    for name, path in folders.images(self._folder, split):
      example = {'image': path.read_bytes(), 'label': name}
      yield f'{name}/{path.name}', example
