"""The report of a run, made again at any time from its saved results."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import pandas as pd
import rich.table

from fastfill_jax.report import (
  document,
  drawing,
  groups,
  plots,
  result,
  summary,
  tables,
)
from fastfill_jax.storage import artifact

Result = result.Result


def write(
  directory: str | os.PathLike[str],
  results: Sequence[Result],
  *,
  title: str,
  settings: Mapping[str, object],
  versions: Mapping[str, object],
  published: tables.Published,
  training: Mapping[str, str | os.PathLike[str]],
  main: str,
  stale: Mapping[str, Sequence[str]],
  sequence: Sequence[pd.DataFrame],
) -> None:
  """Writes the tables and figures of all results, replacing earlier ones.

  Args:
    directory: Where to; made if it is not there.
    results: All seeds and alignments.
    title: The report's heading.
    settings: The config, as JSON can hold it.
    versions: Versions of the code, packages and devices, likewise.
    published: Per row, named 'old/old' or 'alignment, policy', its metrics in
      % as printed and, under 'source', where.
    training: Path of metrics.jsonl by name; 'group/run' puts the runs of one
      group, such as its seeds, in one panel.
    main: The alignment drawn in detail.
    stale: By the name of a result of other code, the files that changed.
    sequence: Of every seed, the table of the stage 'sequence'.

  Raises:
    ValueError: Results do not belong together, or a published number is not
      of a known metric.
  """
  result.check(results)
  tables.check_published(published)
  figures = {
    'curves': plots.curves(results, main),
    'alignments': plots.alignments(results),
    'uncertainty': plots.uncertainty(results, main),
    'training': plots.training(training),
    'groups': plots.subgroups(results, main),
  }
  figures = {
    name: drawn for name, drawn in figures.items() if drawn is not None
  }
  texts = {
    'config.json': json.dumps(settings, indent=2) + '\n',
    'versions.json': json.dumps(versions, indent=2) + '\n',
    'summary.csv': document.summary_csv(summary.summarise(results)),
    'references.csv': summary.references(results).to_csv(),
    'curves.csv': summary.curves(results).to_csv(index=False),
    'ablation.tex': tables.latex(
      tables.ablation(results, columns=tables.PAPER)
    ),
    'report.md': document.markdown(
      results, title, published, main, list(figures), stale, sequence
    ),
  }
  if any(one.groups for one in results):
    texts['groups.csv'] = groups.curves(results).to_csv(index=False)
  # All is made before anything is written: an error leaves the old report.
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  for name, drawn in figures.items():
    drawing.save(drawn, directory, name)
  for name, text in texts.items():
    artifact.write_text(directory / name, text)


def table(results: Sequence[Result]) -> rich.table.Table:
  """The ablation table of all seeds and alignments, for `rich.print`."""
  return tables.terminal(
    tables.ablation(results, columns=tables.TERMINAL, decimals=1),
    f'Area under the backfilling curve, in % ({document.spread(results)})',
  )
