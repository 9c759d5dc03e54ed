"""Augmentation on the host: uint8 images in, uint8 images out.

A transform is a function `(rng, image, **options) -> image` of a NumPy
generator and one image [height, width, channel]. It draws from `rng` alone, so
whoever fixes the generator fixes the image. `simclr` returns two views,
[view, height, width, channel].
"""

import functools
import inspect
import math
from collections.abc import Callable

import cv2
import numpy as np

from fastfill_jax import choices

# The loader's threads already use every core; OpenCV's own would fight them.
cv2.setNumThreads(0)

Rng, Image = np.random.Generator, np.ndarray
Transform = Callable[[Rng, Image], Image]


def _resize(image: Image, height: int, width: int) -> Image:
  # Bilinear sampling reads two pixels each way: beyond a factor of two it would
  # skip some, and averaging, which takes five times as long, is needed.
  shrinks = 2 * height < image.shape[0] and 2 * width < image.shape[1]
  method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
  resized = cv2.resize(image, (width, height), interpolation=method)
  return resized.reshape(height, width, -1)  # OpenCV drops a single channel.


def _flip(rng: Rng, image: Image, probability: float) -> Image:
  if rng.random() >= probability:
    return image
  # A reversed view would make stacking the batch ten times slower.
  return cv2.flip(image, 1).reshape(image.shape)


def _random_crop(rng: Rng, image: Image, min_scale: float) -> Image:
  """Cuts out a share of the area in [min_scale, 1], aspect in [3/4, 4/3]."""
  height, width = image.shape[:2]
  for _ in range(10):
    area = height * width * rng.uniform(min_scale, 1)
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    rows = round(math.sqrt(area / ratio))
    columns = round(math.sqrt(area * ratio))
    if 0 < rows <= height and 0 < columns <= width:
      top = rng.integers(height - rows + 1)
      left = rng.integers(width - columns + 1)
      return image[top : top + rows, left : left + columns]
  # No box fits a very long image: its centre, in the nearest allowed aspect.
  rows, columns = min(height, width * 4 // 3), min(width, height * 4 // 3)
  return _center_crop(image, max(rows, 1), max(columns, 1))


def _center_crop(image: Image, rows: int, columns: int) -> Image:
  top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
  return image[top : top + rows, left : left + columns]


def none(rng: Rng, image: Image) -> Image:
  """Leaves the image as it is; all images must share one shape."""
  del rng
  return image


def random_resized_crop_flip(
  rng: Rng,
  image: Image,
  *,
  size: int = 224,
  min_scale: float = 0.08,
  flip: float = 0.5,
) -> Image:
  """Crops a random part, resizes it to [size, size], perhaps mirrors it."""
  crop = _random_crop(rng, image, min_scale)
  return _flip(rng, _resize(crop, size, size), flip)


def resize_center_crop(
  rng: Rng, image: Image, *, resize: int = 256, size: int = 224
) -> Image:
  """Brings the shorter side to `resize` pixels and cuts out the centre."""
  del rng
  if size > resize:
    raise ValueError(f'size={size}: give at most resize={resize}')
  height, width = image.shape[:2]
  scale = resize / min(height, width)
  image = _resize(image, round(height * scale), round(width * scale))
  return _center_crop(image, size, size)


def resize_flip(
  rng: Rng, image: Image, *, size: int = 224, flip: float = 0.5
) -> Image:
  """Resizes to [size, size] and perhaps mirrors; flip=0 for testing."""
  return _flip(rng, _resize(image, size, size), flip)


def pad_crop_flip(
  rng: Rng, image: Image, *, pad: int = 4, flip: float = 0.5
) -> Image:
  """Adds `pad` black pixels around, crops the old size, perhaps mirrors."""
  top, left = rng.integers(2 * pad + 1, size=2)
  height, width = image.shape[:2]
  padded = np.zeros(
    (height + 2 * pad, width + 2 * pad, image.shape[2]), np.uint8
  )
  padded[pad : pad + height, pad : pad + width] = image
  return _flip(rng, padded[top : top + height, left : left + width], flip)


def small_shift(rng: Rng, image: Image, *, shift: int = 1) -> Image:
  """Moves the image by up to `shift` pixels; black comes in. For digits."""
  return pad_crop_flip(rng, image, pad=shift, flip=0.0)


def shifted(
  rng: Rng,
  image: Image,
  *,
  keep: float = 0.85,
  brightness: float = 0.6,
  sigma: float = 0.6,
) -> Image:
  """The image as of another source: cropped, dark and blurred, size kept.

  `keep` is the share of each side that the centre crop keeps, `sigma` the
  Gaussian blur's, in pixels, 0 for none; every image is changed alike.
  """
  del rng
  height, width = image.shape[:2]
  crop = _center_crop(image, round(keep * height), round(keep * width))
  image = _resize(crop, height, width)
  if sigma:
    blurred = cv2.GaussianBlur(image, (0, 0), sigma)
    image = blurred.reshape(height, width, -1)
  return np.rint(image * brightness).astype(np.uint8)


def simclr(
  rng: Rng,
  image: Image,
  *,
  size: int = 224,
  min_scale: float = 0.08,
  flip: float = 0.5,
  strength: float = 1.0,
  blur: float = 0.5,
) -> Image:
  """Draws SimCLR's two views (arXiv 2002.05709, appendix A).

  `flip` and `blur` are probabilities; no flip where left and right matter
  (digits). For CIFAR the paper takes half the strength of its colour jitter and
  no blur.
  """
  views = []
  for _ in range(2):
    view = random_resized_crop_flip(
      rng, image, size=size, min_scale=min_scale, flip=flip
    )
    if rng.random() < 0.8:
      view = _jitter(rng, view, strength)
    if rng.random() < 0.2:
      view = np.broadcast_to(_grey(view), view.shape).astype(np.uint8)
    if rng.random() < blur:
      kernel = size // 20 * 2 + 1  # A tenth of the side, odd.
      view = cv2.GaussianBlur(view, (kernel, kernel), rng.uniform(0.1, 2.0))
    views.append(view.reshape(size, size, -1))
  return np.stack(views)


def _grey(image: Image) -> Image:
  if image.shape[-1] == 1:
    return image
  return image @ np.array([[0.299], [0.587], [0.114]], np.float32)


def _jitter(rng: Rng, image: Image, strength: float) -> Image:
  """Changes brightness, contrast, saturation and hue, in random order."""
  factor = rng.uniform(1 - 0.8 * strength, 1 + 0.8 * strength, size=3)
  turn = 360 * rng.uniform(-0.2 * strength, 0.2 * strength)
  image = image.astype(np.float32) / 255
  for change in rng.permutation(4):
    if change == 0:
      image = image * factor[0]
    elif change == 1:
      mean = _grey(image).mean()
      image = mean + (image - mean) * factor[1]
    elif change == 2:
      grey = _grey(image)
      image = grey + (image - grey) * factor[2]
    elif image.shape[-1] == 3:
      hue = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
      hue[..., 0] = (hue[..., 0] + turn) % 360
      image = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)
    image = np.clip(image, 0, 1)
  return np.rint(image * 255).astype(np.uint8)


TRANSFORMS = {
  'none': none,
  'pad_crop_flip': pad_crop_flip,
  'random_resized_crop_flip': random_resized_crop_flip,
  'resize_center_crop': resize_center_crop,
  'resize_flip': resize_flip,
  'shifted': shifted,
  'simclr': simclr,
  'small_shift': small_shift,
}
_SHARES = ('blur', 'brightness', 'flip', 'min_scale', 'strength')
_RANGES = dict.fromkeys(_SHARES, (0, 1)) | {'keep': (0.1, 1)}
_RANGES |= dict.fromkeys(('pad', 'shift', 'sigma'), (0, math.inf))
_RANGES |= dict.fromkeys(('resize', 'size'), (1, math.inf))


def make_transform(name: str, **options) -> Transform:
  """A transform with its options, such as size=32, picklable.

  Raises:
    ValueError: an unknown name or option, or a value out of range.
  """
  choices.check('transform', name, TRANSFORMS)
  accepted = list(inspect.signature(TRANSFORMS[name]).parameters)[2:]
  choices.check_keys(f'transform {name!r}', options, accepted)
  for option, value in options.items():
    low, high = _RANGES[option]
    if not low <= value <= high:
      raise ValueError(
        f'{option}={value} of transform {name!r}: give {low} to {high}'
      )
  return functools.partial(TRANSFORMS[name], **options)
