"""Every kernel's known answer, and what each refuses."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel.objectives import kernels as K
from unlabel.objectives.contrast import contrast


def some(*shape: int, seed: int = 0) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=make, dtype=torch.float64)


def near(value: Tensor, known: float, rel: float = 1e-6) -> None:
    slack = 1e-6 if value.dtype == torch.float32 else 1e-12
    assert float(value.detach()) == pytest.approx(known, rel=rel, abs=slack)


@pytest.mark.parametrize("classes", [2, 4, 8, 313, 1000, 8192])
def test_classify_of_equal_logits_is_ln_of_the_classes(classes: int) -> None:
    near(K.classify(torch.zeros(5, classes), torch.arange(5) % classes), math.log(classes))


def test_classify_soft_target_equals_hard_target_when_one_hot() -> None:
    logits, target = some(6, 5, 7), torch.arange(30).reshape(6, 5) % 7
    soft = F.one_hot(target, 7).double()
    torch.testing.assert_close(K.classify(logits, soft), K.classify(logits, target))


def test_classify_soft_target_is_entropy_when_the_prediction_is_right() -> None:
    p = some(9, 4).softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()
    near(K.classify(p.log(), p), float(entropy), 1e-12)


def test_classify_means_over_the_masked_positions_only() -> None:
    logits, target = some(2, 3, 5), torch.randint(5, (2, 3))
    mask = torch.tensor([[True, False, True], [False, False, True]])
    kept = F.cross_entropy(logits[mask], target[mask])
    torch.testing.assert_close(K.classify(logits, target, mask), kept)
    assert K.classify(logits, target, mask, reduction="none").shape == (3,)
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(K.classify(logits, target, mask), logits)
    assert bool((slope[~mask] == 0).all())


def test_classify_of_no_position_is_0_with_gradient_0() -> None:
    logits = some(2, 3).requires_grad_()
    loss = K.classify(logits, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool))
    near(loss, 0.0)
    assert float(torch.autograd.grad(loss, logits)[0].abs().max()) == 0


@pytest.mark.parametrize("none", [-1, -100])
def test_classify_leaves_out_the_class_that_means_none(none: int) -> None:
    logits, target = some(4, 3), torch.tensor([0, none, 2, none])
    kept = target != none
    expected = F.cross_entropy(logits[kept], target[kept])
    torch.testing.assert_close(K.classify(logits, target, ignore=none), expected)


@pytest.mark.parametrize("vocabulary", [5, 30522])
def test_nce_of_equal_model_and_noise_is_the_closed_form(vocabulary: int) -> None:
    n, k = vocabulary, 4096
    score = -math.log(n)
    loss = K.nce(
        torch.full((3,), score), torch.full((3, k), score), log_prior=math.log(k) - math.log(n)
    )
    near(loss, math.log(1 + k) + k * math.log((1 + k) / k), 1e-5)


def test_nce_with_k_negatives_and_zero_scores_is_k_plus_1_ln_2() -> None:
    near(K.nce(torch.zeros(4), torch.zeros(4, 5)), 6 * math.log(2))


def test_nce_takes_each_samples_own_prior() -> None:
    pos, neg = some(4), some(4, 6, seed=1)
    prior, prior_neg = some(4, seed=2), some(4, 6, seed=3)
    h = torch.sigmoid
    expected = -h(pos - prior).log() - (1 - h(neg - prior_neg)).log().sum(1)
    loss = K.nce(pos, neg, log_prior=prior, log_prior_neg=prior_neg, reduction="none")
    torch.testing.assert_close(loss, expected)
    shared = -h(pos - prior).log() - (1 - h(neg - prior[:, None])).log().sum(1)
    torch.testing.assert_close(K.nce(pos, neg, log_prior=prior, reduction="none"), shared)


@pytest.mark.parametrize("metric", ["mse", "l1", "huber", "cosine"])
def test_regress_of_a_perfect_prediction_is_0(metric: Any) -> None:
    near(K.regress(some(3, 4, 5), some(3, 4, 5), metric=metric), 0.0)


def test_regress_of_zero_against_normalised_patches_is_p_minus_1_over_p() -> None:
    patches = some(50, 768)
    unit = (patches - patches.mean(-1, keepdim=True)) / patches.std(-1, keepdim=True)
    near(K.regress(torch.zeros_like(unit), unit), 767 / 768)


def test_regress_cosine_is_2_plus_2_simsiam() -> None:
    p, t = some(8, 5), some(8, 5, seed=1)
    simsiam = -F.cosine_similarity(p, t, dim=-1).mean()
    torch.testing.assert_close(K.regress(p, t, metric="cosine"), 2 + 2 * simsiam)
    near(K.regress(p, -p, metric="cosine"), 4.0)


def test_regress_does_not_depend_on_targets_outside_the_mask() -> None:
    pred, target = some(2, 3, 5), some(2, 3, 5, seed=1)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    other = target + (~mask)[..., None] * 1e6
    before, after = (K.regress(pred, t, mask, metric="l1") for t in (target, other))
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    torch.testing.assert_close(before, (pred - target)[mask].abs().mean())


def test_huber_is_half_the_square_near_0_and_a_half_less_than_the_distance_beyond_1() -> None:
    near(K.regress(torch.tensor([[0.5]]), torch.zeros(1, 1), metric="huber"), 0.125)
    near(K.regress(torch.tensor([[-3.0]]), torch.zeros(1, 1), metric="huber"), 2.5)
    pred = some(3, 2).requires_grad_()  # float64 against float32: both sides reach backward
    K.regress(pred, torch.zeros(3, 2), metric="huber").backward()


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_pinball_is_least_at_the_quantile(level: float) -> None:
    sample = some(1001)
    guesses = torch.cat([sample, sample.quantile(level)[None]])  # the minimiser is a sample point
    losses = [float(K.pinball(g.expand(1001, 1), sample, [level])) for g in guesses]
    near(guesses[losses.index(min(losses))], float(sample.quantile(level)))


def test_pinball_of_the_median_is_half_the_absolute_error_and_levels_are_averaged() -> None:
    target, pred = some(4, 3), some(4, 3, 2, seed=1)
    half = (target - pred[..., 0]).abs() / 2
    torch.testing.assert_close(K.pinball(pred[..., :1], target, [0.5]), half.mean())
    low, high = (K.pinball(pred[..., i, None], target, [q]) for i, q in enumerate((0.2, 0.7)))
    torch.testing.assert_close(K.pinball(pred, target, [0.2, 0.7]), (low + high) / 2)
    mask = torch.rand(4, 3) < 0.5
    kept = K.pinball(pred[..., :1], target, [0.5], mask, reduction="none")
    torch.testing.assert_close(kept, half[mask])


def test_rank_of_coincident_points_is_the_margin_or_ln_2() -> None:
    zero = torch.zeros(6)
    near(K.rank(zero, zero, margin=0.2), 0.2)
    near(K.rank(zero, zero, margin=None), math.log(2))


def test_rank_is_0_once_the_negative_is_farther_by_the_margin() -> None:
    near(K.rank(torch.tensor([0.1, 0.0]), torch.tensor([0.7, 0.5]), margin=0.5), 0.0)
    near(K.rank(torch.tensor([0.1]), torch.tensor([0.4]), margin=0.5), 0.2)


def test_alignment_is_0_for_equal_views_and_4_for_opposite_ones() -> None:
    x = some(5, 3)
    near(K.alignment(x, 3 * x), 0.0)
    near(K.alignment(x, -x), 4.0)
    near(K.alignment(x, -x, alpha=1.0), 2.0)


def test_alignment_has_a_gradient_where_views_coincide() -> None:
    x = some(5, 3).requires_grad_()
    for alpha in (0.5, 1.0, 2.0, 3.0):
        (slope,) = torch.autograd.grad(K.alignment(x, x.detach(), alpha=alpha), x)
        assert bool(slope.isfinite().all())


@pytest.mark.parametrize("t", [1.0, 2.0, 3.0])
def test_uniformity_of_known_sets_is_minus_2t_and_minus_4t(t: float) -> None:
    near(K.uniformity(torch.eye(7), t=t), -2 * t)
    near(K.uniformity(torch.tensor([[0.0, 2.0], [0.0, -3.0]]), t=t), -4 * t)
    near(K.uniformity(torch.ones(9, 4), t=t), 0.0)


def test_uniformity_and_its_gradient_equal_those_of_all_pairs() -> None:
    x = some(40, 6).requires_grad_()
    apart = F.pdist(F.normalize(x, dim=1)).square()
    expected = (-2 * apart).exp().mean().log()
    near(K.uniformity(x), float(expected.detach()), 1e-12)
    ours, theirs = (torch.autograd.grad(v, x)[0] for v in (K.uniformity(x), expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_barlow_twins_of_decorrelated_equal_views_is_0() -> None:
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]])
    near(K.barlow_twins(signs, signs), 0.0)


def test_barlow_twins_sums_over_pairs_of_features() -> None:
    x = some(64, 1).expand(64, 5)  # every feature the same: C is all ones
    near(K.barlow_twins(x, x, weight=0.005), 0.005 * 20, 1e-3)
    near(K.barlow_twins(x, -x, weight=0.0), 4 * 5, 1e-3)


def test_cross_correlation_is_numpys_up_to_the_eps() -> None:
    x, y = some(50, 3), some(50, 4, seed=1)
    expected = torch.corrcoef(torch.cat([x, y], 1).T)[:3, 3:]
    with pytest.raises(ValueError, match="differ in shape"):
        K.cross_correlation(x, y)
    padded = torch.cat([x, y[:, :1]], 1)
    torch.testing.assert_close(K.cross_correlation(padded, y, eps=1e-12)[:3], expected)


def test_vicreg_of_constant_views_is_the_official_24_75() -> None:
    z = torch.ones(16, 8)
    terms = K.vicreg(z, z)
    total = 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"]
    near(total, 24.75)


def test_variance_term_is_zero_when_every_std_exceeds_one() -> None:
    z = some(64, 8) * 5
    near(K.vicreg(z, z)["variance"], 0.0)
    near(K.vicreg(z, z)["invariance"], 0.0)


def test_covariance_term_is_the_off_diagonal_of_both_views_over_the_width() -> None:
    x, y = some(30, 4), some(30, 4, seed=1)
    expected = 0.0
    for v in (x, y):
        c = torch.cov(v.T)
        expected += float((c.square().sum() - c.diagonal().square().sum()) / 4)
    near(K.vicreg(x, y)["covariance"], expected, 1e-12)


def test_one_feature_has_no_covariance_with_another() -> None:
    terms = K.vicreg(some(30, 1), some(30, 1, seed=1))
    assert terms["covariance"].item() == 0
    assert all(x.isfinite() for x in terms.values())


def test_gaussian_kl_of_mean_1_is_half_the_width_and_of_the_prior_0() -> None:
    near(K.gaussian_kl(torch.ones(3, 10), torch.zeros(3, 10)), 5.0)
    near(K.gaussian_kl(torch.zeros(3, 10), torch.zeros(3, 10)), 0.0)


def test_gaussian_kl_equals_torchs_and_stays_exact_near_the_prior() -> None:
    mean, log_var = some(6, 4), some(6, 4, seed=1)
    normal = torch.distributions.Normal(mean, (log_var / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(normal, prior).sum(-1)
    torch.testing.assert_close(K.gaussian_kl(mean, log_var, reduction="none"), expected)
    tiny = K.gaussian_kl(torch.zeros(1, 1), torch.full((1, 1), 1e-2))
    near(tiny, (math.exp(1e-2) - 1 - 1e-2) / 2, 1e-3)


def test_kl_is_0_for_equal_logits_and_keeps_its_size_with_temperature() -> None:
    a, b = some(5, 7), some(5, 7, seed=1)
    near(K.kl(a, a + 3, temperature=2.0), 0.0)
    expected = 9 * F.kl_div(
        (a / 3).log_softmax(-1), (b / 3).log_softmax(-1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(K.kl(a, b, temperature=3.0), expected)


def test_jensen_shannon_is_0_when_all_agree_and_ln_k_when_disjoint() -> None:
    a = some(5, 7)
    near(K.jensen_shannon([a, a + 1, a - 2]), 0.0)
    near(K.jensen_shannon(list(torch.eye(4).mul(500)[:, None])), math.log(4))


def test_jensen_shannon_is_the_entropy_of_the_mean_less_the_mean_entropy() -> None:
    logits = [some(5, 7, seed=s) for s in range(3)]
    p = torch.stack([x.softmax(-1) for x in logits])
    h: Callable[[Tensor], Tensor] = lambda q: -(q * q.log()).sum(-1)  # noqa: E731
    expected = h(p.mean(0)) - h(p).mean(0)
    torch.testing.assert_close(K.jensen_shannon(logits, reduction="none"), expected)


def test_two_members_a_cluster_make_supervised_contrast_nt_xent() -> None:
    z, source = some(12, 5), torch.arange(6).repeat(2)
    partner = torch.arange(12).roll(6)
    s = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / 0.07
    s = s.masked_fill(torch.eye(12, dtype=torch.bool), -math.inf)
    same = (source[:, None] == source) & ~torch.eye(12, dtype=torch.bool)
    sup_con = -(s.log_softmax(1)[same]).mean()
    torch.testing.assert_close(contrast(z, positive=partner, temperature=0.07), sup_con)


OTHER = some(6, 4, seed=1).bfloat16().double()  # the same number in every type
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "classify": lambda x: K.classify(x, torch.arange(6) % 4),
    "classify_soft": lambda x: K.classify(x, OTHER.to(x).softmax(-1)),
    "nce": lambda x: K.nce(x[:, 0], x[:, 1:], log_prior=0.3),
    "mse": lambda x: K.regress(x, OTHER.to(x)),
    "l1": lambda x: K.regress(x, OTHER.to(x), metric="l1"),
    "huber": lambda x: K.regress(x, OTHER.to(x), metric="huber"),
    "pinball": lambda x: K.pinball(x, OTHER.to(x)[:, 0], (0.1, 0.4, 0.6, 0.9)),
    "cosine": lambda x: K.regress(x, OTHER.to(x), metric="cosine"),
    "rank": lambda x: K.rank(x[:, 0], x[:, 1], margin=None),
    "alignment": lambda x: K.alignment(x, x.roll(1, 1)),
    "uniformity": K.uniformity,
    "barlow_twins": lambda x: K.barlow_twins(x, x.roll(1, 0)),
    "vicreg": lambda x: torch.stack(list(K.vicreg(x, x.roll(1, 0)).values())).sum(),
    "gaussian_kl": lambda x: K.gaussian_kl(x, x.roll(1, 0)),
    "kl": lambda x: K.kl(x, OTHER.to(x), temperature=2.0),
    "jensen_shannon": lambda x: K.jensen_shannon([x, x.roll(1, 0)]),
}
every_kernel = pytest.mark.parametrize("name", CALLS)


@every_kernel
def test_gradient_is_exact_in_float64(name: str) -> None:
    torch.autograd.gradcheck(CALLS[name], some(6, 4).requires_grad_())


@every_kernel
def test_bfloat16_under_autocast_gives_the_float32_loss(name: str) -> None:
    x = some(6, 4).bfloat16()
    plain = CALLS[name](x.float())
    with torch.autocast("cpu", torch.bfloat16):
        loss = CALLS[name](x)
    assert loss.dtype == torch.float32
    # Where the call itself prepares a target in bfloat16, that rounding is not the kernel's.
    torch.testing.assert_close(loss, plain, rtol=5e-3 if name == "classify_soft" else 1e-6, atol=0)


two, three = some(2, 4), some(3, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: K.classify(two, torch.tensor([0, 4])), "classes are 0 to 3"),
        (lambda: K.classify(two, torch.tensor([0, -1])), "give ignore="),
        (lambda: K.classify(two, torch.tensor([0, 1, 2])), "one class for each"),
        (lambda: K.classify(two, three), "differ in shape"),
        (lambda: K.classify(two, torch.tensor([0, 1]), torch.ones(2)), "bool mask"),
        (lambda: K.classify(two, torch.tensor([0, 1]), torch.ones(3) > 0), "bool mask"),
        (lambda: K.nce(two[0], two), "positive score a row"),
        (lambda: K.regress(two, three), "differ in shape"),
        (lambda: K.regress(two, two, metric="l2"), "metric is 'l2'"),  # type: ignore[arg-type]
        (lambda: K.pinball(two, two[0], [0.5]), "one value for each of 1 quantiles"),
        (lambda: K.pinball(two, two[:, 0], [0.1, 0.2, 0.3, 1.0]), "levels between 0 and 1"),
        (lambda: K.rank(two[0], three[:, 0], margin=1.0), "differ in shape"),
        (lambda: K.alignment(two, three), "differ in shape"),
        (lambda: K.uniformity(two[:1]), "at least two"),
        (lambda: K.vicreg(two[:1], two[:1]), "at least two"),
        (lambda: K.barlow_twins(two[:1], two[:1]), "at least two"),
        (lambda: K.gaussian_kl(two, three), "differ in shape"),
        (lambda: K.kl(two, two, temperature=0.0), "temperature is 0.0"),
        (lambda: K.jensen_shannon([two]), "compares distributions"),
        (lambda: K.jensen_shannon([two, three]), "differ in shape"),
        (lambda: K.rank(two, two, margin=1.0, reduction="sum"), "reduction"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(
    call: Callable[[], Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call()
