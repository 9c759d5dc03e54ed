"""A config's work by hand, the hardware's names, hours by arithmetic."""

import types

import jax
import jax.numpy as jnp
import pytest

from configs import digits
from fastfill_jax import cost, flops, hardware, models, workload


def test_hardware_by_name():
  assert hardware.get('H100').bfloat16 == 989e12
  assert hardware.find('NVIDIA H100 80GB HBM3') is hardware.get('h100')
  assert hardware.find('TPU v5 lite') is hardware.get('v5e')
  assert hardware.find('TPU v5') is hardware.get('v5p')
  assert hardware.find('TPU v6 lite') is hardware.get('v6e')
  assert hardware.find('cpu') is None
  with pytest.raises(ValueError, match=r"'h1000'.*mean 'h100'.*'here'"):
    hardware.get('h1000')


def test_hardware_here_is_measured():
  here = hardware.measure(size=64)
  assert min(here.bfloat16, here.float32, here.bandwidth) > 0
  assert here.host_cores > 0


@pytest.fixture(scope='module')
def digits_stages():
  config = digits.get_config()
  stages = workload.stages(config, workload.data_size(config))
  return {stage.name: stage for stage in stages}


def test_examples_of_every_stage(digits_stages):
  assert list(digits_stages) == ['old', 'new', 'embed', 'align', 'evaluate']
  seeds = 3
  examples = {name: stage.examples for name, stage in digits_stages.items()}
  # Half of the classes: half of 1,000 examples; 30 epochs of whole batches.
  assert examples['old'] == 500 * 30 * seeds
  assert examples['new'] == 1000 * 30 * seeds
  assert examples['embed'] == (8 * 1000 + 797) * seeds
  networks, closed_forms, sweeps = 7, 2, 3
  assert examples['align'] == 1000 * 40 * networks * seeds
  assert examples['evaluate'] == 797 * (networks + closed_forms) * sweeps * 3


def test_work_of_the_old_perceptron(digits_stages):
  old = digits_stages['old']
  # 64 pixels -> 16 -> 16 -> 10 classes: forward, gradient of the weights, and
  # of the inputs but for the pixels.
  terms = 2 * 64 * 16 + 3 * 16 * 16 + 3 * 16 * 10
  assert old.work.flops == 2 * terms * old.examples
  # Both dense layers have biases or norms beside their kernels.
  assert old.parameters >= 64 * 16 + 16 * 16 + 16 * 10


def test_work_of_the_embeddings(digits_stages):
  stage = digits_stages['embed']
  cnn = models.make_encoder('cnn', embedding_dim=32)
  image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
  variables = jax.eval_shape(cnn.init, jax.random.key(0), image)
  new = flops.count(cnn.apply, variables, image).flops
  old = 2 * (64 * 16 + 16 * 16)
  assert stage.work.flops == pytest.approx(stage.examples * (old + new))


def test_work_of_the_alignments(digits_stages):
  # 16 -> 32 -> 64 twice, 128 -> 256 -> 256 -> 32: forward, gradients of the
  # weights, and of all inputs but the embeddings.
  layers = 2 * (16 * 32 + 32 * 64) + 128 * 256 + 256 * 256 + 256 * 32
  network = 3 * layers - 2 * 16 * 32
  logits, example, coordinate = 32 * 10, 3 * 32, 3 * 32 * 32
  terms = [
    network + logits,  # l2; the logits are reported only
    network + 2 * logits,  # disc: W_new is frozen
    network + 2 * logits,  # l2+disc
    network + logits + example,
    network + 2 * logits + example,
    network + 2 * logits + example,
    network + 2 * logits + coordinate,
  ]
  seeds, examples = 3, 40 * 1000
  work = digits_stages['align'].work
  assert work.flops == seeds * examples * 2 * sum(terms)


def test_work_of_the_sweep(digits_stages):
  stage = digits_stages['evaluate']
  sweeps = stage.examples // 797
  # Old and new scores of every pair, in the wider of the two spaces.
  assert stage.work.flops == sweeps * 2 * (2 * 797 * 797 * 32)


def test_side_information_is_a_stage_of_two_views():
  config = digits.get_config('debug')
  config.side.enabled = True
  size = workload.data_size(config)
  new = workload.encoder_stage(config, 'new', size, runs=1)
  side = workload.encoder_stage(config, 'side', size, runs=1)
  assert side.examples == new.examples
  assert side.work.flops > 1.9 * new.work.flops


def test_sizes_are_known_without_the_data():
  config = types.SimpleNamespace(
    data=types.SimpleNamespace(name='imagenet2012:5.1.0')
  )
  assert workload.data_size(config).train == 1_281_167


DEVICE = hardware.Hardware('x', 100.0, 50.0, 10.0, 4.0, utilisation=0.5)


def test_seconds_and_their_limit():
  stage = workload.Stage('new', 1, 60, flops.Work(6000, 300), 'bfloat16', 60)

  def limit(**options):
    return cost.seconds(stage, DEVICE, **options)

  # 6000 FLOP at 100/s, half of it used; 300 bytes at 10/s; 60 images, 4 cores.
  assert limit() == (6000 / 100 / 0.5, 'compute')
  assert limit(devices=2) == (6000 / 100 / 0.5 / 2, 'compute')
  assert limit(utilisation=0.25) == (6000 / 100 / 0.25, 'compute')
  assert limit(images_per_core=0.1) == (60 / (0.1 * 4), 'input')
  stage = workload.Stage('x', 1, 60, flops.Work(600, 300), utilisation=0.2)
  assert limit() == (300 / 10 / 0.2, 'memory')
  stage = workload.Stage('x', 1, 60, flops.Work(6000, 300))
  assert limit() == (6000 / 50 / 0.5, 'compute')


def test_cores_that_keep_a_device_busy():
  stage = workload.Stage('new', 1, 60, flops.Work(6000, 300), 'bfloat16', 60)
  align = workload.Stage('align', 1, 999, flops.Work(1, 1))
  # 120 s for 60 images; a core decodes 0.2 a second.
  cores = cost.cores_needed([stage, align], DEVICE, images_per_core=0.2)
  assert cores == pytest.approx(60 / 120 / 0.2)
  assert cost.cores_needed([align], DEVICE) == 0


def test_tables():
  stages = [
    workload.Stage('new', 2_500_000, 4_000_000, flops.Work(8e15, 2e12)),
    workload.Stage('align', 0, 0, flops.Work()),
  ]
  assert cost.work_table(stages).splitlines()[2:] == [
    '| new   | 2.50         | 4          | 2             | 8     | 2        |'
  ]
  device = hardware.Hardware('x', 1e12, 1e12, 1e12, 4.0, utilisation=0.5)
  lines = cost.hours_table(stages, [device], count=2).splitlines()
  assert [cell.strip() for cell in lines[0].split('|')[1:-1]] == [
    '2 ×',
    'utilisation',
    'new',
    'align',
    'all',
    'cores per device',
  ]
  assert [cell.strip() for cell in lines[2].split('|')[1:-1]] == [
    'x',
    '50% (assumed)',
    '2.2 h, compute',
    '0.0 s, compute',
    '2.2 h',
    'none',
  ]
  measured = cost.hours_table(stages, [device], count=2, utilisation=0.25)
  assert '25% (measured)' in measured
  assert '4.4 h' in measured


def test_main(digits_stages, monkeypatch, capsys, caplog):
  config = digits.get_config()
  found = list(digits_stages.values())
  monkeypatch.setattr(workload, 'stages', lambda *_: found)
  assert cost.main(config, ['v5e', 'a100'], 1, None, 645.0) == 0
  printed = capsys.readouterr().out.splitlines()
  assert [line.split()[1] for line in printed[2:7]] == [
    'old',
    'new',
    'embed',
    'align',
    'evaluate',
  ]
  assert [line.split()[1] for line in printed[-2:]] == ['v5e', 'a100']
  for arguments, message in (
    ((['v5'], 1, None, 645.0), "Did you mean 'v5"),
    ((['v5e'], 0, None, 645.0), '--devices=0'),
    ((['v5e'], 1, 1.5, 645.0), '--utilisation=1.5'),
  ):
    assert cost.main(config, *arguments) == 1
    assert message in caplog.text
