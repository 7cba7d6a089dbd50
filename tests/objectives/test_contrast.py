"""`contrast` against a dense float64 formula, closed forms, and its promises of size and order."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel.objectives import logsumexp
from unlabel.objectives.contrast import contrast, nt_xent
from unlabel.objectives.logsumexp import Exclude, log_sum_exp_of_negatives

N, M, D = 37, 53, 12


@pytest.fixture(autouse=True, params=[(8, 16), (256, 1024)], ids=["small_blocks", "one_block"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    monkeypatch.setattr(logsumexp, "tile_for", lambda like: request.param)
    return request.param


def some(*shape: int, seed: int = 0) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=make, dtype=torch.float64)


def dense(
    query: Tensor,
    keys: Tensor,
    positive: Tensor,
    is_negative: Tensor,
    temperature: float | Tensor,
    *,
    normalize: bool = True,
    tau_plus: float = 0.0,
    beta: float = 0.0,
    flat: bool = False,
    decoupled: bool = False,
) -> Tensor:
    """The papers' formulas on the whole matrix, one loss a query; places or vectors as positive."""
    unit = (lambda x: F.normalize(x, dim=1)) if normalize else (lambda x: x)
    s = unit(query) @ unit(keys).T / temperature
    if positive.is_floating_point():
        pos = (unit(query) * unit(positive)).sum(1) / temperature
    else:
        pos = s.gather(1, positive[:, None])[:, 0]
    n = is_negative.sum(1).double()
    if beta:
        weight = (s * beta).masked_fill(~is_negative, -math.inf).softmax(1) * n[:, None]
        log_neg = (s + weight.clamp(min=1e-300).log()).masked_fill(~is_negative, -math.inf)
    else:
        log_neg = s.masked_fill(~is_negative, -math.inf)
    log_neg = log_neg.logsumexp(1)
    if tau_plus:
        left = (log_neg.exp() - tau_plus * n * pos.exp()) / (1 - tau_plus)
        log_neg = torch.maximum(left, n * torch.exp(torch.as_tensor(-1 / temperature))).log()
    v = log_neg - pos
    if flat:
        return (v - v.detach()).exp()
    return v if decoupled else torch.logaddexp(v, torch.zeros_like(v))


def negatives(n: int, m: int, positive: Tensor | None, *, itself: Tensor | None = None) -> Tensor:
    kept = torch.ones(n, m, dtype=torch.bool)
    for index in (positive, itself):
        if index is not None:
            kept[torch.arange(n), index] = False
    return kept


def assert_same(ours: Tensor, theirs: Tensor, inputs: list[Tensor], limit: float = 1e-12) -> None:
    """Values and gradients of a weighted sum agree, relative to their size."""
    weight = some(*theirs.shape, seed=9).abs()
    most = float(theirs.detach().abs().max())
    torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit * most)
    a = torch.autograd.grad((ours * weight).sum(), inputs, retain_graph=True)
    b = torch.autograd.grad((theirs * weight).sum(), inputs, retain_graph=True)
    for x, y in zip(a, b, strict=True):
        assert float((x - y).norm()) <= limit * float(y.norm())


OPTIONS = [
    {},
    {"temperature": 0.02},
    {"temperature": 0.003},  # each row's own largest logit
    {"normalize": False, "temperature": 1.0},
    {"normalize": False, "temperature": 0.03},
    {"tau_plus": 0.1, "temperature": 0.5},
    {"tau_plus": 0.4, "temperature": 0.2},
    {"beta": 1.0, "temperature": 0.5},
    {"beta": 2.0, "tau_plus": 0.1, "temperature": 0.5},
    {"flat": True},
    {"flat": True, "beta": 0.5},
    {"decoupled": True},
    {"decoupled": True, "tau_plus": 0.1, "beta": 1.0, "temperature": 0.5},
]
every_option = pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "plain"
)


def with_temperature(options: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    rest = dict(options)
    value = rest.pop("temperature", 0.1)
    return torch.tensor(value, dtype=torch.float64, requires_grad=True), rest


@every_option
def test_keys_with_positions_equal_the_dense_formula(options: dict[str, Any]) -> None:
    q, k = some(N, D).requires_grad_(), some(M, D, seed=1).requires_grad_()
    positive = torch.randint(M, (N,), generator=torch.Generator().manual_seed(3))
    t, rest = with_temperature(options)
    ours = contrast(q, k, positive, temperature=t, reduction="none", **rest)
    theirs = dense(q, k, positive, negatives(N, M, positive), t, **rest)
    assert_same(ours, theirs, [q, k] if rest.get("flat") else [q, k, t])


@every_option
def test_two_views_equal_the_dense_nt_xent(options: dict[str, Any]) -> None:
    z0, z1 = some(N, D).requires_grad_(), some(N, D, seed=1).requires_grad_()
    t, rest = with_temperature(options)
    if "normalize" in rest:
        pytest.skip("nt_xent always takes cosines")
    z = torch.cat([z0, z1])
    partner = torch.arange(2 * N).roll(N)
    kept = negatives(2 * N, 2 * N, partner, itself=torch.arange(2 * N))
    ours = nt_xent(z0, z1, temperature=t, reduction="none", **rest)
    assert_same(ours, dense(z, z, partner, kept, t, **rest), [z0, z1, t])


@every_option
def test_symmetric_equals_the_dense_mean_of_both_directions(options: dict[str, Any]) -> None:
    q, k = some(N, D).requires_grad_(), some(N, D, seed=1).requires_grad_()
    positive = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    t, rest = with_temperature(options)
    ours = contrast(q, k, positive, temperature=t, symmetric=True, reduction="none", **rest)
    there = dense(q, k, positive, negatives(N, N, positive), t, **rest)
    back_places = torch.argsort(positive)
    back = dense(k, q, back_places, negatives(N, N, back_places), t, **rest)
    assert_same(ours, (there + back[positive]) / 2, [q, k, t])


@every_option
def test_positives_given_as_vectors_meet_all_keys_as_negatives(options: dict[str, Any]) -> None:
    q, k, own = (some(n, D, seed=s).requires_grad_() for s, n in enumerate((N, M, N)))
    t, rest = with_temperature(options)
    ours = contrast(q, k, own, temperature=t, reduction="none", **rest)
    theirs = dense(q, k, own, negatives(N, M, None), t, **rest)
    assert_same(ours, theirs, [q, k, own])


@pytest.mark.parametrize("temperature", [0.1, 0.003])
def test_without_keys_vectors_as_positives_leave_out_only_the_query_itself(
    temperature: float,
) -> None:
    q, own = some(N, D).requires_grad_(), some(N, D, seed=1).requires_grad_()
    ours = contrast(q, None, own, temperature=temperature, reduction="none")
    kept = negatives(N, N, None, itself=torch.arange(N))
    assert_same(ours, dense(q, q, own, kept, temperature), [q, own])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("temperature", [0.1, 0.003])
def test_keys_of_the_same_id_are_no_negatives(symmetric: bool, temperature: float) -> None:
    q, k = some(N, D).requires_grad_(), some(N, D, seed=1).requires_grad_()
    here, ids = torch.arange(N), torch.arange(N) % 11
    ours = contrast(
        q, k, temperature=temperature, query_id=ids, key_id=ids, symmetric=symmetric,
        reduction="none",
    )  # fmt: skip
    kept = negatives(N, N, here) & (ids[:, None] != ids)
    theirs = dense(q, k, here, kept, temperature)
    if symmetric:
        theirs = (theirs + dense(k, q, here, kept, temperature)) / 2
    assert_same(ours, theirs, [q, k])


def test_ids_without_keys_leave_out_repeated_samples() -> None:
    z = some(2 * N, D).requires_grad_()
    partner, ids = torch.arange(2 * N).roll(N), torch.arange(N).remainder(7).repeat(2)
    kept = negatives(2 * N, 2 * N, partner, itself=torch.arange(2 * N))
    kept &= ids[:, None] != ids
    ours = contrast(z, positive=partner, query_id=ids, beta=1.0, tau_plus=0.1, reduction="none")
    assert_same(ours, dense(z, z, partner, kept, 0.1, beta=1.0, tau_plus=0.1), [z])


def test_positives_that_are_no_mutual_partners_equal_the_dense_formula() -> None:
    z = some(N, D).requires_grad_()
    after = torch.arange(N).roll(-1)
    kept = negatives(N, N, after, itself=torch.arange(N))
    ours = contrast(z, positive=after, reduction="none")
    assert_same(ours, dense(z, z, after, kept, 0.1), [z])


def test_a_rank_with_gathered_keys_gives_its_rows_of_the_whole_loss() -> None:
    z0, z1 = some(N, D), some(N, D, seed=1)
    z, partner = torch.cat([z0, z1]), torch.arange(2 * N).roll(N)
    whole = nt_xent(z0, z1, reduction="none")
    mine = torch.arange(5, 30)
    local = contrast(z[mine], z, partner[mine], itself=mine, reduction="none")
    torch.testing.assert_close(local, whole[mine], rtol=1e-13, atol=0)


def float32_errors(temperature: float, noise: float, seed: int) -> list[float]:
    """Relative to float64, of the loss and of both gradients."""
    x0 = some(128, 64, seed=seed)
    x1 = x0 + noise * some(128, 64, seed=seed + 1)
    found = []
    for dtype in (torch.float64, torch.float32):
        z0, z1 = (x.float().to(dtype).requires_grad_() for x in (x0, x1))
        loss = nt_xent(z0, z1, temperature=temperature)
        found.append(
            (loss.detach().double(), *(g.double() for g in torch.autograd.grad(loss, (z0, z1))))
        )
    return [float((b - a).norm() / a.norm()) for a, b in zip(*found, strict=True)]


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.05, 0.02, 0.01])
@pytest.mark.parametrize("noise", [1.0, 0.3, 0.02])
def test_float32_loss_and_gradient_are_within_1e5_of_float64(
    temperature: float, noise: float
) -> None:
    for seed in range(0, 20, 2):
        assert max(float32_errors(temperature, noise, seed)) <= 5e-6


@pytest.mark.parametrize(("temperature", "most"), [(0.5, 2e-6), (0.05, 5e-6), (0.01, 3e-5)])
def test_without_float64_for_few_logits_the_error_grows_with_them(
    temperature: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logsumexp, "FEW", 0)
    errors = [max(float32_errors(temperature, noise, 0)) for noise in (1.0, 0.3, 0.02)]
    assert max(errors) <= most


def test_the_losses_compared_reach_from_5_to_below_1e12() -> None:
    x0 = some(128, 64)
    far = nt_xent(x0, some(128, 64, seed=1), temperature=0.5)
    near = nt_xent(x0, x0 + 0.02 * some(128, 64, seed=1), temperature=0.01)
    assert far > 5
    assert 0 < near < 1e-12


@pytest.mark.parametrize("n", [2, 8, 300])
def test_nt_xent_of_equal_embeddings_is_ln_2n_minus_1(n: int) -> None:
    z = torch.ones(n, D)
    assert float(nt_xent(z, z)) == pytest.approx(math.log(2 * n - 1), rel=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_loss_is_ln_n_when_all_embeddings_are_equal(symmetric: bool) -> None:
    z = torch.ones(N, D)
    assert float(contrast(z, z, symmetric=symmetric)) == pytest.approx(math.log(N), rel=1e-6)


def test_zero_queries_as_of_untrained_bilinear_scores_give_ln_of_the_candidates() -> None:
    loss = contrast(torch.zeros(N, D), some(N, D), normalize=False)
    assert float(loss) == pytest.approx(math.log(N), rel=1e-12)


def test_a_queue_of_k_equal_keys_gives_ln_k_plus_1() -> None:
    z = torch.ones(4, D)
    assert float(contrast(z, torch.ones(M, D), z)) == pytest.approx(math.log(M + 1), rel=1e-6)


def test_debiased_without_false_negatives_is_nt_xent() -> None:
    z0, z1 = some(N, D), some(N, D, seed=1)
    tiny = nt_xent(z0, z1, tau_plus=1e-12)  # the corrected path, not the shortcut
    torch.testing.assert_close(tiny, nt_xent(z0, z1), rtol=1e-9, atol=0)


def test_debiased_negatives_never_fall_below_their_floor() -> None:
    z = torch.ones(N, D)  # all equal: tau_plus .9 takes away more than there is
    n = 2 * N - 2
    floor = math.log1p(n * math.exp(-2.0) / math.exp(2.0))
    assert float(nt_xent(z, z, tau_plus=0.9, temperature=0.5)) == pytest.approx(
        math.log(2 * N - 1), rel=1e-6
    )
    apart = torch.cat([torch.eye(2), torch.eye(2)])
    loss = contrast(apart, positive=torch.tensor([2, 3, 0, 1]), tau_plus=0.9, temperature=0.5)
    assert float(loss) == pytest.approx(math.log1p(2 * math.exp(-2.0) / math.exp(2.0)), rel=1e-6)
    assert floor > 0


def test_hard_negatives_without_weight_are_debiased() -> None:
    z0, z1 = some(N, D), some(N, D, seed=1)
    a = nt_xent(z0, z1, beta=1e-9, tau_plus=0.1, temperature=0.5)
    b = nt_xent(z0, z1, tau_plus=0.1, temperature=0.5)
    torch.testing.assert_close(a, b, rtol=1e-8, atol=0)


def test_beta_500_does_not_overflow_and_tends_to_n_times_the_hardest() -> None:
    z0, z1 = some(N, D).float().requires_grad_(), some(N, D, seed=1).float().requires_grad_()
    loss = nt_xent(z0, z1, beta=500.0, temperature=0.5, reduction="none")
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    s = z @ z.T / 0.5
    partner = torch.arange(2 * N).roll(N)
    hardest = s.masked_fill(~negatives(2 * N, 2 * N, partner, itself=torch.arange(2 * N)), -9.0)
    limit = F.softplus(hardest.amax(1) + math.log(2 * N - 2) - s[torch.arange(2 * N), partner])
    torch.testing.assert_close(loss, limit, rtol=2e-2, atol=0)
    grads = torch.autograd.grad(loss.mean(), (z0, z1))
    assert all(bool(g.isfinite().all()) for g in grads)


def test_flat_nce_is_1_with_the_gradient_of_info_nce_over_1_minus_p() -> None:
    q, k = some(N, D).requires_grad_(), some(N, D, seed=1).requires_grad_()
    flat = contrast(q, k, flat=True, reduction="none")
    torch.testing.assert_close(flat, torch.ones_like(flat), rtol=0, atol=0)
    plain = contrast(q, k, reduction="none")
    miss = 1 - (-plain.detach()).exp()
    a = torch.autograd.grad(flat.sum(), (q, k))
    b = torch.autograd.grad((plain / miss).sum(), (q, k))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-13)


def test_permuting_the_samples_permutes_the_losses() -> None:
    z0, z1 = some(N, D), some(N, D, seed=1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    plain = nt_xent(z0, z1, reduction="none").unflatten(0, (2, N))
    moved = nt_xent(z0[order], z1[order], reduction="none").unflatten(0, (2, N))
    torch.testing.assert_close(moved, plain[:, order], rtol=1e-12, atol=0)


@pytest.mark.parametrize("both", [False, True])
def test_the_result_does_not_depend_on_the_block_size(both: bool) -> None:
    a, b = some(70, D).requires_grad_(), some(70, D, seed=1).requires_grad_()
    exclude = Exclude((torch.arange(70),))
    found = []
    for size in ((1, 1), (7, 13), (64, 3), (70, 70), (512, 512)):
        by_row, by_col, _ = log_sum_exp_of_negatives(a, b, exclude, both=both, tile=size)
        total = by_row.sum() + (0 if by_col is None else by_col.square().sum())
        found.append((total, *torch.autograd.grad(total, (a, b))))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-13)


def test_two_runs_are_equal_bit_by_bit() -> None:
    z0, z1 = some(300, D).float().requires_grad_(), some(300, D, seed=1).float()
    runs = [torch.autograd.grad(nt_xent(z0, z1), z0)[0] for _ in range(2)]
    assert torch.equal(*runs)


def test_compiled_loss_and_gradient_are_the_same() -> None:
    z0, z1 = some(N, D).requires_grad_(), some(N, D, seed=1)
    compiled = torch.compile(nt_xent, backend="aot_eager")
    a, b = (f(z0, z1) for f in (compiled, nt_xent))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    slopes = [torch.autograd.grad(x, z0)[0] for x in (a, b)]
    torch.testing.assert_close(*slopes, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_and_autocast_give_the_float32_loss(dtype: torch.dtype) -> None:
    z0, z1 = some(N, D).to(dtype).requires_grad_(), some(N, D, seed=1).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z0, z1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nt_xent(z0.float(), z1.float()), rtol=0, atol=0)
    (slope,) = torch.autograd.grad(loss, z0)
    assert slope.dtype == dtype


def test_inputs_are_left_as_they_were() -> None:
    z0, z1 = some(N, D), some(N, D, seed=1)
    kept = z0.clone(), z1.clone()
    z0.requires_grad_()
    torch.autograd.grad(nt_xent(z0, z1), z0)
    assert torch.equal(z0.detach(), kept[0])
    assert torch.equal(z1, kept[1])


@pytest.mark.parametrize(
    "options", [{}, {"decoupled": True}, {"beta": 1.0, "tau_plus": 0.1}], ids=str
)
def test_a_query_without_negatives_has_loss_and_gradient_0(options: dict[str, Any]) -> None:
    q, k = some(1, D).requires_grad_(), some(1, D, seed=1).requires_grad_()
    loss = contrast(q, k, **options)
    assert float(loss.detach()) == 0
    assert all(float(g.abs().max()) == 0 for g in torch.autograd.grad(loss, (q, k)))


def test_one_query_without_negatives_leaves_the_others_alone() -> None:
    q, k = some(N, D).requires_grad_(), some(N, D, seed=1)
    ids, key_ids = torch.arange(N), torch.zeros(N, dtype=torch.int64)  # query 0 meets none
    loss = contrast(q, k, query_id=ids, key_id=key_ids, temperature=0.003, reduction="none")
    assert float(loss[0].detach()) == 0
    assert bool((loss[1:] > 0).all())
    assert bool(torch.autograd.grad(loss.sum(), q)[0].isfinite().all())


def test_a_zero_vector_has_finite_gradients() -> None:
    q = some(N, D)
    q[3] = 0
    q.requires_grad_()
    (slope,) = torch.autograd.grad(contrast(q, some(N, D, seed=1)), q)
    assert bool(slope.isfinite().all())


PEAK = """
import sys, torch
from pathlib import Path
from unlabel.objectives.contrast import nt_xent
torch.set_num_threads(1)
n = int(sys.argv[1])
z0, z1 = (torch.randn(n, 64, requires_grad=True) for _ in range(2))
nt_xent(z0[:600], z1[:600]).backward()
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
lines = Path("/proc/self/status").read_text().splitlines()
before = int(next(x for x in lines if x.startswith("VmRSS")).split()[1])
nt_xent(z0, z1).backward()
lines = Path("/proc/self/status").read_text().splitlines()
print(int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_peak_memory_is_linear_in_the_batch(tile: tuple[int, int]) -> None:
    if tile[0] < 256:
        pytest.skip("the block size of the subprocess is the default one")
    small, large = (
        int(subprocess.check_output([sys.executable, "-c", PEAK, str(n)], text=True))
        for n in (6000, 12000)
    )
    assert small > 2 * 6000 * 64 * 4 / 1024  # kB: the gradient at least, or nothing was measured
    assert large <= 2.2 * small
    assert large < (2 * 12000) ** 2 * 4 / 1024 / 20  # of one matrix of logits


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"beta": 1.0, "tau_plus": 0.1}])
def test_what_is_not_finite_shows_in_loss_and_gradient(value: float, options: dict) -> None:
    query, keys = some(3, D), some(3, D).requires_grad_()
    query[1, 2] = value
    query.requires_grad_()
    loss = contrast(query, keys, **options)
    loss.backward()
    assert loss.isnan() and not query.grad.isfinite().all() and not keys.grad.isfinite().all()


pairs = torch.arange(4).roll(2)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((some(3, D), some(3, D + 1)), {}, "differ in width"),
        ((some(3, D)[0],), {}, "one embedding a row"),
        ((some(0, D), some(3, D)), {}, "at least one row"),
        ((some(3, D), some(0, D)), {}, "at least one row"),
        ((some(3, 0), some(3, 0)), {}, "one number in it"),
        ((some(4, 0), None, pairs), {}, "one number in it"),
        ((some(3, D), some(2, D)), {}, "have no diagonal"),
        ((some(3, D), some(2, D), torch.tensor([0, 1, 2])), {}, "numbered 0 to 1"),
        ((some(3, D), some(2, D), torch.tensor([0, 1])), {}, "one whole number a query"),
        ((some(3, D), some(2, D), some(2, D)), {}, "2 vectors for 3 queries"),
        ((some(3, D),), {}, "give positive"),
        ((some(3, D), None, torch.tensor([1, 1, 0])), {}, "its own positive"),
        ((some(4, D), None, pairs), {"symmetric": True}, "leave out itself and symmetric"),
        ((some(4, D), None, pairs), {"itself": pairs}, "leave out itself and symmetric"),
        ((some(4, D), None, pairs), {"key_id": pairs}, "no key_id"),
        ((some(2, D), some(3, D)), {"symmetric": True}, "symmetric needs"),
        ((some(2, D), some(2, D), torch.tensor([1, 1])), {"symmetric": True}, "symmetric needs"),
        ((some(2, D), some(2, D), some(2, D)), {"symmetric": True}, "positive"),
        ((some(2, D), some(2, D)), {"query_id": torch.arange(2)}, "give both"),
        ((some(2, D), some(2, D)), {"itself": torch.tensor([0, 5])}, "itself reaches"),
        ((some(2, D), some(2, D)), {"temperature": 0.0}, "temperature is 0.0"),
        ((some(2, D), some(2, D)), {"temperature": math.nan}, "temperature is nan"),
        ((some(2, D), some(2, D)), {"temperature": torch.ones(2)}, "a tensor of one"),
        ((some(2, D), some(2, D)), {"temperature": torch.tensor(-1.0)}, "temperature is -1.0"),
        ((some(2, D), some(2, D)), {"tau_plus": 1.0}, "below 1"),
        ((some(2, D), some(2, D)), {"tau_plus": 0.1, "normalize": False}, "normalize=True"),
        ((some(2, D), some(2, D)), {"beta": -1.0}, "beta is -1.0"),
        ((some(2, D), some(2, D)), {"flat": True, "decoupled": True}, "exclude each other"),
        ((some(2, D), some(2, D)), {"reduction": "sum"}, "reduction"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(
    arguments: tuple[Tensor, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        contrast(*arguments, **options)


def test_views_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        nt_xent(some(3, D), some(4, D))
