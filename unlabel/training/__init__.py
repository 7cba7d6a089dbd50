"""The trainer on top of transformers' own, checkpoints, ranks, monitors."""
