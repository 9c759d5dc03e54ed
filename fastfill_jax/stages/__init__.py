"""One stage per file: plain functions of their inputs into a folder."""
