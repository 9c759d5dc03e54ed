"""A worked example on text: from TF-IDF to WordLlama, without a download.

  pip install -e '.[example]'
  python docs/text_example.py --workdir=DIR

Items are docstrings of installed scientific packages without their first line,
queries these first lines, each judged to want its own docstring. The old model
is TF-IDF with a truncated SVD to 128 dimensions; the new one WordLlama, whose
256-dimensional weights come with its package. 5,000 items are embedded by
both. At the end all of them are, to see what the forecast was worth.
"""

import argparse
import ast
import importlib.util
import pathlib
import shutil

import numpy as np
import pandas as pd

from fastfill_jax.backfill import __main__ as commands
from fastfill_jax.forecast import fitting, study, truths

_PACKAGES = (
  'numpy',
  'scipy',
  'sklearn',
  'pandas',
  'matplotlib',
  'jax',
  'flax',
  'optax',
  'PIL',
)
_PAIRS, _OLD_DIM = 5_000, 128
_KINDS = (ast.FunctionDef, ast.ClassDef)


def docstrings() -> dict[str, tuple[str, str]]:
  """{name: (first line, rest)} of all that is documented at length."""
  found, seen = {}, set()
  for package in _PACKAGES:
    root = pathlib.Path(importlib.util.find_spec(package).origin).parent
    for path in sorted(root.rglob('*.py')):
      if 'test' in str(path.relative_to(root)):
        continue
      tree = ast.parse(path.read_text('utf-8', errors='ignore'))
      module = '.'.join(
        (package, *path.relative_to(root).with_suffix('').parts)
      )
      for node in ast.walk(tree):
        text = isinstance(node, _KINDS) and ast.get_docstring(node)
        first, _, rest = (text or '').partition('\n')
        rest = ' '.join(rest.split())
        if len(first.split()) < 4 or len(rest) < 200 or first in seen:
          continue
        seen.add(first)
        found[f'{module}:{node.name}:{node.lineno}'] = first, rest
  return found


def unit(rows: np.ndarray) -> np.ndarray:
  """Brings rows to unit length."""
  length = np.linalg.norm(rows, axis=1, keepdims=True)
  return (rows / np.where(length > 0, length, 1)).astype(np.float32)


def old_model(items: list[str]):
  """TF-IDF and SVD, as a function of texts."""
  from sklearn.decomposition import TruncatedSVD
  from sklearn.feature_extraction.text import TfidfVectorizer

  counts = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words='english')
  svd = TruncatedSVD(_OLD_DIM, random_state=0).fit(counts.fit_transform(items))
  return lambda texts: unit(svd.transform(counts.transform(texts)))


def new_model():
  """WordLlama's mean of its tokens' rows, as a function of texts."""
  import safetensors.numpy
  import tokenizers

  root = pathlib.Path(importlib.util.find_spec('wordllama').origin).parent
  name = 'tokenizers/l2_supercat_tokenizer_config.json'
  tokenizer = tokenizers.Tokenizer.from_file(str(root / name))
  weights = safetensors.numpy.load_file(
    root / 'weights' / 'l2_supercat_256.safetensors'
  )
  (rows,) = weights.values()
  rows = rows.astype(np.float32)

  def embed(texts):
    tokens = tokenizer.encode_batch(texts, add_special_tokens=False)
    return unit(np.stack([rows[text.ids].mean(axis=0) for text in tokens]))

  return embed


def write(workdir: pathlib.Path) -> tuple[dict, dict]:
  """Embeds and writes what people hold; returns that and all the rest."""
  held = docstrings()
  names = np.array(list(held))
  first, rest = (list(texts) for texts in zip(*held.values(), strict=True))
  old, new = old_model(rest), new_model()
  every = {
    'old': old(rest),
    'new': new(rest),
    'queries_new': new(first),
    'queries_old': old(first),
  }
  pairs = np.random.default_rng(0).permutation(len(names))[:_PAIRS]
  questions = np.char.add('what is ', names)
  arrays = {
    'old': every['old'],
    'old-ids': names,
    'new': every['new'][pairs],
    'new-ids': names[pairs],
    'queries': every['queries_new'][pairs],
    'queries-ids': questions[pairs],
    'queries-old': every['queries_old'][pairs],
  }
  for name, array in arrays.items():
    np.save(workdir / f'{name}.npy', array)
  lines = [f'{questions[row]}\t{names[row]}\t1' for row in pairs]
  text = '\n'.join(['query-id\tcorpus-id\tscore', *lines])
  (workdir / 'qrels.tsv').write_text(text + '\n')
  flags = {name: str(workdir / f'{name}.npy') for name in arrays}
  return flags | {'qrels': str(workdir / 'qrels.tsv')}, every


def truth(every: dict, workdir: pathlib.Path) -> dict:
  """nDCG@10 of all items and queries, {(alignment, order): [share]}."""
  size = len(every['old'])
  some = np.sort(np.random.default_rng(1).permutation(size)[:4000])
  sample = truths.Sample(
    every['old'],
    every['new'],
    every['queries_new'][some],
    every['queries_old'][some],
    np.full(len(some), -1),
    relevant=np.stack([np.arange(len(some)), some]),
    grade=np.ones(len(some)),
    distance='cosine',
  )
  fits = {
    path.name: fitting.load(path / 'final')
    for path in sorted((workdir / 'fits').iterdir())
  }
  return study.truth(sample, fits)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--budget', default='20%')
  args = parser.parse_args()
  shutil.rmtree(args.workdir, ignore_errors=True)
  args.workdir.mkdir(parents=True)
  flags, every = write(args.workdir)
  work, plan = f'--workdir={args.workdir}', f'--out={args.workdir}/plan'
  for command in (
    ['fit', work, *(f'--{name}={path}' for name, path in flags.items())],
    ['forecast', work],
    ['plan', work, f'--budget={args.budget}', plan],
  ):
    if commands.main(command):
      raise SystemExit(1)
  told = pd.read_csv(args.workdir / 'forecast.csv', keep_default_na=False)
  told = told[told.metric == 'ndcg@10'].set_index(['alignment', 'order'])
  print('nDCG@10, forecast / true; ! where the band does not hold it')
  for names, values in truth(every, args.workdir).items():
    cells = []
    for share in (0, 0.1, 0.2, 0.5, 1):
      rows = told.loc[names].set_index('share')
      said, low, high = rows.loc[share, ['value', 'low', 'high']]
      value = values[list(study.SHARES).index(share)]
      mark = '' if low <= value <= high else ' !'
      cells.append(f'{100 * said:.1f} / {100 * value:.1f}{mark}')
    print(' | '.join(['', *names, *cells, '']).strip())


if __name__ == '__main__':
  main()
