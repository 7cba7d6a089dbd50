"""Kinds of data: how a batch of it becomes views and how its encoder is called."""
