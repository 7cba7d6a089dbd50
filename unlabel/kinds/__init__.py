"""Kinds of data in a run: what `unlabel train` reads and builds for each modality."""
