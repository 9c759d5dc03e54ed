"""A benchmark's rows as CSV."""

import csv
import pathlib


def write(path: str, rows: list[dict]) -> pathlib.Path:
  """Writes rows of one form; the folder is made if it is not there."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  return path
