import inspect
import io

import cv2
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from fastfill_jax.data import pixels, transforms


def _image(height=40, width=60, channels=3):
  shape = (height, width, channels)
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _rng(seed=0):
  return np.random.default_rng(seed)


def _encode(image, format_, **options):
  buffer = io.BytesIO()
  image.save(buffer, format_, **options)
  return buffer.getvalue()


def test_decode_is_lossless_for_png():
  image = _image()
  data = _encode(PIL.Image.fromarray(image), 'PNG')
  np.testing.assert_array_equal(pixels.decode(data), image)
  assert pixels.decode(image) is image


def test_decode_equals_pillow_for_jpeg():
  smooth = cv2.resize(_image(4, 4), (64, 48), interpolation=cv2.INTER_CUBIC)
  data = _encode(PIL.Image.fromarray(smooth), 'JPEG')
  expected = np.asarray(PIL.Image.open(io.BytesIO(data)))
  # Decoders may differ in the last bits.
  difference = pixels.decode(data).astype(int) - expected
  assert np.abs(difference).max() <= 4


def test_decode_gives_the_channels_asked_for():
  grey, colour = _image(channels=1), _image()
  as_grey = _encode(PIL.Image.fromarray(grey[..., 0]), 'PNG')
  as_colour = _encode(PIL.Image.fromarray(colour), 'PNG')
  np.testing.assert_array_equal(pixels.decode(as_grey, 1), grey)
  # A few of ImageNet's photographs are grey.
  three = np.broadcast_to(grey, colour.shape)
  np.testing.assert_array_equal(pixels.decode(as_grey, 3), three)
  assert pixels.decode(as_colour, 1).shape == grey.shape


def test_decode_reads_cmyk_and_transparency():
  # ImageNet has a CMYK photograph, and a PNG among its JPEGs.
  plain = PIL.Image.new('CMYK', (8, 8), (0, 255, 255, 0))
  red = pixels.decode(_encode(plain, 'JPEG'))
  assert red.shape == (8, 8, 3)
  assert red[..., 0].min() > 200
  assert red[..., 1:].max() < 60
  clear = PIL.Image.new('RGBA', (8, 8), (1, 2, 3, 0))
  decoded = pixels.decode(_encode(clear, 'PNG'))
  np.testing.assert_array_equal(decoded[0, 0], [1, 2, 3])


def test_decode_ignores_the_cameras_orientation():
  image = PIL.Image.fromarray(_image(8, 16))
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # To be shown turned by a quarter.
  assert pixels.decode(_encode(image, 'JPEG', exif=exif)).shape == (8, 16, 3)


@pytest.mark.parametrize('data', [b'', b'no image', b'\xff\xd8\xff\xe0'])
def test_decode_refuses_what_is_no_image(data):
  with pytest.raises(ValueError, match='no readable image'):
    pixels.decode(data)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize(
  ('name', 'options', 'shape'),
  [
    ('none', {}, (40, 60)),
    ('small_shift', {}, (40, 60)),
    ('pad_crop_flip', {}, (40, 60)),
    ('resize_flip', {'size': 50}, (50, 50)),
    ('resize_center_crop', {'resize': 36, 'size': 32}, (32, 32)),
    ('random_resized_crop_flip', {'size': 32}, (32, 32)),
    ('simclr', {'size': 32}, (2, 32, 32)),
  ],
)
def test_shape_dtype_and_determinism(name, options, shape, channels):
  transform = transforms.make_transform(name, **options)
  image = _image(channels=channels)
  original = image.copy()
  first, again = (transform(_rng(5), image) for _ in range(2))
  assert first.shape == (*shape, channels)
  assert first.dtype == np.uint8
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(image, original)
  if name not in ('none', 'resize_center_crop'):
    draws = [transform(_rng(seed), image) for seed in range(5)]
    assert any(not np.array_equal(draws[0], draw) for draw in draws)


def test_pad_crop_flip_moves_and_mirrors():
  image = np.zeros((9, 9, 1), np.uint8)
  image[4, 4] = 255
  places = set()
  for seed in range(400):
    moved = transforms.pad_crop_flip(_rng(seed), image, pad=1, flip=0.0)
    assert moved.sum() == 255
    places.add(tuple(np.argwhere(moved[..., 0])[0]))
  assert places == {(r, c) for r in (3, 4, 5) for c in (3, 4, 5)}
  mirrored = transforms.pad_crop_flip(_rng(), _image(), pad=0, flip=1.0)
  np.testing.assert_array_equal(mirrored, _image()[:, ::-1])


def test_resize_center_crop_keeps_the_centre():
  # Without a change of scale, the crop is a plain slice.
  cut = transforms.resize_center_crop(_rng(), _image(), resize=40, size=20)
  np.testing.assert_array_equal(cut, _image()[10:30, 20:40])
  # The short side is brought to 20 pixels: two by two averages.
  halved = transforms.resize_center_crop(_rng(), _image(), resize=20, size=20)
  blocks = _image()[:, 10:50].reshape(20, 2, 20, 2, 3).mean((1, 3))
  assert np.abs(halved - blocks).max() <= 0.5


def test_random_crops_keep_to_their_scale_and_aspect(monkeypatch):
  # Both coordinates as pixels, and no resizing, show the box that was cut.
  rows, columns = np.mgrid[:90, :120].astype(np.uint8)
  image = np.stack([rows, columns, columns], axis=-1)
  boxes = []
  monkeypatch.setattr(
    transforms,
    '_resize',
    lambda crop, height, width: boxes.append(crop.shape[:2]) or crop,
  )
  for seed in range(300):
    crop = transforms.random_resized_crop_flip(
      _rng(seed), image, min_scale=0.25, flip=0.0
    )
    assert crop[0, 0, 0] + len(crop) - 1 == crop[-1, -1, 0] < 90
  height, width = np.array(boxes).T
  share = height * width / (90 * 120)
  assert 0.24 < share.min() < 0.3
  assert 0.85 < share.max() <= 1
  ratio = width / height
  assert 0.72 < ratio.min() < 0.85
  assert 1.2 < ratio.max() < 1.37


@pytest.mark.parametrize(('height', 'width'), [(1, 100), (100, 1), (1, 1)])
def test_random_crops_of_slivers(height, width):
  image = np.full((height, width, 3), 7, np.uint8)
  crop = transforms.random_resized_crop_flip(_rng(), image, size=8)
  np.testing.assert_array_equal(crop, np.full((8, 8, 3), 7, np.uint8))


def test_simclr_draws_two_views():
  first, second = transforms.simclr(_rng(), _image(), size=32)
  assert not np.array_equal(first, second)


def test_simclr_takes_the_colour_from_a_fifth():
  # Two colours only, so that cropping never leaves a grey view by itself.
  image = np.zeros((8, 8, 3), np.uint8)
  image[..., 0] = 200
  views = [
    view
    for seed in range(200)
    for view in transforms.simclr(_rng(seed), image, size=8, strength=0, blur=0)
  ]
  grey = np.mean([np.ptp(view, axis=-1).max() == 0 for view in views])
  # 400 draws: three standard deviations are 3 * sqrt(0.2 * 0.8 / 400) = 0.06.
  assert abs(grey - 0.2) < 0.06


def test_jitter():
  # Strength 0 is the identity, but for HSV's rounding.
  still = transforms._jitter(_rng(), _image(), 0.0)
  assert np.abs(still.astype(int) - _image()).max() <= 1
  # Grey stays grey, whatever happens to hue and saturation.
  grey = np.broadcast_to(_image(channels=1), (40, 60, 3))
  changed = transforms._jitter(_rng(), grey, 1.0)
  assert np.ptp(changed, axis=-1).max() <= 1
  assert np.abs(changed.astype(int) - grey).max() > 10


def test_unknown_transforms_and_options_are_named():
  with pytest.raises(ValueError, match="did you mean 'pad_crop_flip'"):
    transforms.make_transform('pad_crop_flips')
  with pytest.raises(
    ValueError, match=r"'sise', did you mean 'size'.*: size, flip"
  ):
    transforms.make_transform('resize_flip', sise=3)


def test_options_out_of_range_are_named():
  with pytest.raises(ValueError, match=r'flip=2 of .* give 0 to 1'):
    transforms.make_transform('resize_flip', flip=2)
  with pytest.raises(ValueError, match=r'size=0 of .* give 1 to inf'):
    transforms.make_transform('resize_flip', size=0)
  with pytest.raises(ValueError, match='size=9: give at most resize=8'):
    transforms.resize_center_crop(_rng(), _image(), size=9, resize=8)


def test_shifted_is_cropped_dark_and_blurred():
  flat = np.full((8, 8, 3), 200, np.uint8)
  make = transforms.make_transform
  dark = make('shifted', brightness=0.6)(_rng(), flat)
  np.testing.assert_array_equal(dark, 120)
  # Half of each side, in its old size: the frame around it is gone.
  framed = np.zeros((8, 8, 1), np.uint8)
  framed[2:6, 2:6] = 100
  cropped = make('shifted', keep=0.5, brightness=1.0, sigma=0.0)(_rng(), framed)
  np.testing.assert_array_equal(cropped, np.full((8, 8, 1), 100))
  point = np.zeros((9, 9, 1), np.uint8)
  point[4, 4] = 255
  blurred = make('shifted', keep=1.0, brightness=1.0, sigma=1.0)(_rng(), point)
  assert blurred[4, 4, 0] < 100
  assert blurred[4, 5, 0] > 10


def test_every_option_has_a_range():
  for name, transform in transforms.TRANSFORMS.items():
    defaults = inspect.signature(transform).parameters.values()
    options = {p.name: p.default for p in defaults if p.default is not p.empty}
    transforms.make_transform(name, **options)


def test_normalise():
  images = np.zeros((2, 1, 1, 3), np.uint8)
  images[1] = [255, 51, 102]
  result = pixels.normalise(jnp.asarray(images), (0.5, 0.2, 0), (0.5, 0.1, 2))
  assert result.dtype == jnp.float32
  expected = [
    [[[-0.5 / 0.5, -0.2 / 0.1, 0]]],
    [[[0.5 / 0.5, 0.0, 0.4 / 2]]],
  ]
  np.testing.assert_allclose(result, expected, atol=1e-6)
  one = pixels.normalise(jnp.asarray(images), (0.5,), (0.25,))
  np.testing.assert_allclose(one[0], -2 * np.ones((1, 1, 3)), atol=1e-6)


def test_normalise_refuses():
  images = jnp.zeros((1, 2, 2, 3), jnp.uint8)
  with pytest.raises(ValueError, match='float32'):
    pixels.normalise(images.astype(jnp.float32), (0.5,), (0.5,))
  with pytest.raises(ValueError, match='2 means and 2 deviations for 3'):
    pixels.normalise(images, (0.5, 0.5), (0.5, 0.5))
