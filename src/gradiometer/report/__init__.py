"""The report of a run: charts, tables and one self-contained page."""
