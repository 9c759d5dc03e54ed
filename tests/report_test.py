import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import report_cases
import rich.console

from fastfill_jax import report
from fastfill_jax.report import drawing, plots, summary, tables


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A report, its results, and the arguments it was written with."""
  directory = tmp_path_factory.mktemp('report')
  log = directory / 'metrics.jsonl'
  lines = [{'step': i, 'time': 1.5, 'loss': 1 / i} for i in (1, 2)]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  log.write_text(text + '{"step": 3, "lo')
  arguments = report_cases.WRITTEN | {
    'title': 'Two seeds',
    'settings': {'seed': (0, 1)},
    'versions': {'jax': '1.2'},
    'published': {
      'fastfill, sigma': {'mAP': 32.5, 'cmc@1': 53.6, 'source': 'Table 9'},
      'old/old': {'mAP': 16.5},
      'elsewhere, random': {'mAP': 1.25, 'source': 'there'},
    },
    'training': {'new/0': log, 'new/1': log, 'old/0': log},
  }
  results = report_cases.many()
  report.write(directory / 'a', results, **arguments)
  return directory, results, arguments


IMAGES = ('.png', '.svg')
FILES = {
  *('report.md', 'ablation.tex', 'summary.csv', 'curves.csv', 'groups.csv'),
  'references.csv',
  *('config.json', 'versions.json'),
  *(
    f'{name}.{kind}'
    for name in ('curves', 'alignments', 'uncertainty', 'training', 'groups')
    for kind in ('png', 'svg')
  ),
}


def test_every_file_is_written_and_every_figure_shown(written):
  directory, *_ = written
  assert {path.name for path in (directory / 'a').iterdir()} == FILES
  text = (directory / 'a' / 'report.md').read_text('utf-8')
  for name in FILES:
    if name.endswith('.png'):
      assert f']({name})' in text
  assert json.loads((directory / 'a' / 'config.json').read_text()) == {
    'seed': [0, 1]
  }


def test_a_report_made_again_from_saved_results_is_the_same(
  written, tmp_path, monkeypatch
):
  directory, results, arguments = written
  for i, one in enumerate(results):
    one.save(tmp_path / str(i))
  loaded = [report.Result.load(tmp_path / str(i)) for i in range(len(results))]
  monkeypatch.setattr(drawing, 'save', lambda *_: None)  # seconds
  report.write(tmp_path / 'b', loaded, **arguments)
  names = [path.name for path in (tmp_path / 'b').iterdir()]
  assert set(names) == {name for name in FILES if name[-4:] not in IMAGES}
  for name in names:
    first = (directory / 'a' / name).read_bytes()
    assert (tmp_path / 'b' / name).read_bytes() == first, name


def test_the_same_figure_is_the_same_file(written, tmp_path):
  directory, results, _ = written
  drawing.save(plots.curves(results, 'fastfill'), tmp_path, 'curves')
  for name in ('curves.png', 'curves.svg'):
    first = (directory / 'a' / name).read_bytes()
    assert (tmp_path / name).read_bytes() == first


def test_curves_csv_is_tidy_and_exact(written):
  directory, results, _ = written
  frame = pd.read_csv(directory / 'a' / 'curves.csv')
  assert list(frame) == [
    *('seed', 'alignment', 'policy', 'fraction', 'mAP', 'cmc@1', 'cmc@5')
  ]
  assert len(frame) == sum(len(one.policies) * 22 for one in results)
  one = results[-1]
  rows = frame[
    (frame.seed == one.seed)
    & (frame.alignment == one.alignment)
    & (frame.policy == 'class_mean')
  ]
  curve = one.curves['mAP'][one.policies.index('class_mean')]
  np.testing.assert_allclose(rows['mAP'], curve, rtol=1e-14)
  np.testing.assert_allclose(rows['fraction'], one.fractions, rtol=1e-14)


def test_summary_csv_has_a_row_per_alignment_and_policy(written):
  directory, results, _ = written
  frame = pd.read_csv(directory / 'a' / 'summary.csv')
  assert len(frame) == 3 + 4
  row = frame.set_index(['alignment', 'policy']).loc[('fct', 'distance')]
  areas = [
    r.curves['cmc@5'][-1].mean() for r in results if r.alignment == 'fct'
  ]
  assert row['cmc@5'] == pytest.approx(np.mean(areas))
  assert row['cmc@5_std'] == pytest.approx(np.std(areas, ddof=1))
  assert row['reads'] == 'aligned new'
  assert not row['comparable']


def test_report_says_what_is_read_and_published(written):
  directory, *_ = written
  text = (directory / 'a' / 'report.md').read_text('utf-8')
  assert '† reads the new embeddings of the gallery: an oracle.' in text
  assert 'class_mean: aligned, labels' in text
  assert '32.5 / 53.6 / –' in text
  assert 'elsewhere, random: 1.25 / – / – (there)' in text
  assert 'mean ± standard deviation over 2 seeds' in text
  rows = [line for line in text.splitlines() if line.startswith('| fastfill')]
  assert any('| sigma |' in row and '32.5 / 53.6' in row for row in rows)


def test_markdown_rows_have_equal_cells():
  results = [report_cases.make({'random': [0.2, 0.8]}, alignment='a|b')]
  lines = tables.markdown(tables.ablation(results)).splitlines()
  assert 'a\\|b' in lines[-1]
  counts = {line.replace('\\|', '').count('|') for line in lines}
  assert len(counts) == 1


def test_latex_escapes_and_aligns():
  curves = {'class_mean': [0.2, 0.8], 'distance': [0.3, 0.8]}
  results = [report_cases.make(curves, alignment='l2_&_50%{x}\\')]
  text = tables.latex(tables.ablation(results, columns=tables.PAPER))
  assert r'l2\_\&\_50\%\{x\}\textbackslash{}' in text
  assert r'class\_mean$^\ddagger$' in text
  assert r'distance$^\dagger$' in text
  assert text.isascii()
  lines = text.replace(r'\&', '').splitlines()
  rows = [line for line in lines if line.endswith(r'\\')]
  assert {row.count('&') for row in rows} == {1 + len(tables.PAPER)}
  assert '@{}ll' + 'r' * len(tables.PAPER) + '@{}' in text


def test_latex_marks_the_best():
  text = tables.latex(
    tables.ablation(
      [report_cases.make({'random': [0.2, 0.8]})], columns=('mAP',)
    )
  )
  assert r'fastfill & random & \textbf{50.00 $\pm$ 1.00} \\' in text


def test_terminal_table_names_each_alignment_once():
  console = rich.console.Console(width=80, color_system=None)
  with console.capture() as capture:
    console.print(report.table(report_cases.many()))
  text = capture.get()
  assert text.count('fastfill') == 1
  assert text.count('distance†') == 2
  assert max(map(len, text.splitlines())) <= 80


def test_a_wrong_published_number_writes_nothing(tmp_path):
  published = {'old/old': {'map': 1.0}}
  with pytest.raises(ValueError, match=r"published\['old/old'\].*map"):
    report.write(
      *(tmp_path / 'a', report_cases.many(1)),
      **report_cases.WRITTEN | {'published': published},
    )
  assert not (tmp_path / 'a').exists()


def test_settings_that_json_cannot_hold_write_nothing(tmp_path):
  with pytest.raises(TypeError, match='set'):
    report.write(
      *(tmp_path / 'a', report_cases.many(1)),
      **report_cases.WRITTEN | {'settings': {'seeds': {1, 2}}},
    )
  assert not (tmp_path / 'a').exists()


# Figures.


def drawn(axes):
  """The data of each line that has a name."""
  lines = [line for line in axes.lines if line.get_label()[0] != '_']
  return {line.get_label().split('  ')[0]: line.get_ydata() for line in lines}


def test_curves_show_means_bands_and_references():
  results = [
    report_cases.make({'random': [0.2, 0.4, x], 'sigma': [0.2, 0.5, x]}, seed)
    for seed, x in enumerate([0.6, 0.8])
  ]
  top, bottom = plots.curves(results, 'fastfill').axes
  np.testing.assert_allclose(drawn(top)['sigma'], [20, 50, 70])
  np.testing.assert_allclose(drawn(bottom)['sigma'], [0, 10, 0], atol=1e-9)
  heights = {
    line.get_ydata()[0] for line in top.lines if len(line.get_ydata()) == 2
  }
  np.testing.assert_allclose(sorted(heights), [10, 70])
  band = top.collections[0].get_paths()[0].vertices[:, 1]
  spread = 100 * np.std([0.6, 0.8], ddof=1)
  assert band.max() == pytest.approx(70 + spread)


def test_one_seed_has_bands_over_queries():
  top = plots.curves(
    [report_cases.make({'random': [0.2, 0.6]})], 'fastfill'
  ).axes[0]
  band = top.collections[0].get_paths()[0].vertices[:, 1]
  assert band.max() == pytest.approx(60 + 1)
  assert band.min() == pytest.approx(20 - 1)


def test_main_policies_are_the_best_of_each_kind():
  curves = {
    'random': [0.2, 0.8],
    'sigma': [0.3, 0.8],
    'entropy': [0.25, 0.8],
    'margin': [0.35, 0.8],
    'class_mean': [0.3, 0.8],
    'class_mean_cosine': [0.2, 0.8],
    'distance': [0.4, 0.8],
  }
  reads = report_cases.READS | {
    'entropy': ('logits',),
    'margin': ('logits',),
    'class_mean_cosine': ('aligned', 'labels'),
  }
  one = report_cases.make({name: [0.0, 0.0] for name in ('random', 'sigma')})
  values = np.array(list(curves.values()))
  one = dataclasses.replace(
    one,
    policies=tuple(curves),
    reads=reads,
    curves=report_cases.scores(values),
    standard_error=report_cases.scores(np.zeros_like(values)),
    area_standard_error=report_cases.scores(np.zeros(len(values))),
    negative_flips=np.zeros_like(values),
  )
  shown = plots.main_policies(summary.summarise([one]))
  assert shown == ['random', 'sigma', 'margin', 'class_mean', 'distance']
  looks = [drawing.look(policy, one.reads[policy]) for policy in shown]
  assert len({look['color'] for look in looks}) == len(shown)
  assert [look['linestyle'] == '-' for look in looks] == [True] * 3 + [
    False
  ] * 2


def test_training_curves_share_a_panel_by_group(written):
  _, _, arguments = written
  figure = plots.training(arguments['training'])
  panels = {axes.get_title(loc='left'): axes for axes in figure.axes}
  assert {name: len(axes.lines) for name, axes in panels.items()} == {
    'new': 2,
    'old': 1,
  }
  # The line cut short by a kill is left out.
  np.testing.assert_array_equal(panels['old'].lines[0].get_xdata(), [1, 2])


def test_logs_without_a_loss_are_no_figure(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "accuracy": 0.5}\n')
  assert plots.training({'old': path}) is None
  path.write_text('')
  assert plots.training({'old': path}) is None
