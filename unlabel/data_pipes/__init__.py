"""From raw files and data sets to samples."""
