"""Micro-batches with labels, and with two players: the whole batch's gradient."""

import contextlib

import pytest
import torch
from tiny_series import SAMPLES, SERIES, TinySeries, make_series

from unlabel.training.pretraining import Pretraining, cached_step

NAMES = ["s4l", "sla", "context_encoder", "adversarial_autoencoder", "bigan", "patch_contrast"]


def made(name):
    torch.manual_seed(0)
    return Pretraining(TinySeries(), SERIES[name](), SAMPLES).double()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_the_whole_batch(name):
    cached, plain = made(name), made(name)
    parts = [make_series(cached.encoder, rows=4, first=first) for first in (0, 4, 8)]
    cached_step(
        cached,
        parts,
        seed_micro=torch.manual_seed,
        backward=lambda loss: loss.backward(),
        autocast=contextlib.nullcontext,
    )
    plain(make_series(plain.encoder, rows=12)).loss.backward()
    for (key, p), q in zip(cached.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-13, msg=key)
