"""From an image file's bytes to pixels, and from pixels to numbers."""

from collections.abc import Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np


def decode(image: bytes | np.ndarray, channels: int = 3) -> np.ndarray:
  """The uint8 [height, width, channel] of an image file's bytes, or of itself.

  With 1 channel it is grey, with 3 RGB, whatever the file holds.

  Raises:
    ValueError: the bytes are no image.
  """
  if isinstance(image, np.ndarray):
    return image
  # As TensorFlow and Pillow do: the pixels as stored, whatever EXIF says.
  flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
  flag |= cv2.IMREAD_IGNORE_ORIENTATION
  data = np.frombuffer(image, np.uint8)
  pixels = cv2.imdecode(data, flag) if data.size else None
  if pixels is None:
    raise ValueError(
      f'{len(image)} bytes starting with {image[:8]!r} are no readable image'
    )
  if channels == 1:
    return pixels[:, :, None]
  return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def normalise(
  images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Scales uint8 pixels to [0, 1], then to zero mean and unit deviation.

  Runs on the device: a quarter of the bytes cross from the host. Images are
  uint8 [..., height, width, channel] and become float32; mean and deviation are
  of pixels in [0, 1], one for each channel or for all.

  Raises:
    ValueError: images that are not uint8, or as many means as no channels.
  """
  if images.dtype != jnp.uint8:
    raise ValueError(f'images are {images.dtype}: normalise takes uint8')
  channels = images.shape[-1]
  if len(mean) not in (1, channels) or len(std) != len(mean):
    raise ValueError(
      f'{len(mean)} means and {len(std)} deviations for {channels} channels: '
      f'give 1 or {channels} of each'
    )
  shape = (1,) * (images.ndim - 1) + (-1,)
  mean = jnp.asarray(mean, jnp.float32).reshape(shape)
  std = jnp.asarray(std, jnp.float32).reshape(shape)
  return (images.astype(jnp.float32) / 255 - mean) / std
