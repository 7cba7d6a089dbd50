"""unlabel: pretrain encoders on data nobody labelled."""

__version__ = "0.1.0"
