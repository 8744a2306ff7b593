"""What a person sees of a run: charts and one self-contained page."""
