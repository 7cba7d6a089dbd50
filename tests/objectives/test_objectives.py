"""The shared tester: what every objective of the catalogue must keep."""

import math
from typing import Any

import pytest
import torch
from tiny_joint import JOINT, joint
from tiny_series import PROTOTYPES, SAMPLES, SERIES, SWAV, TinySeries, make_series
from tiny_video import VIDEO, make_video, tiny_video

from unlabel.core import Encoding, cat_batches
from unlabel.objectives import (
    CATALOGUE,
    CURL,
    DINO,
    MLM,
    SLA,
    TSDAE,
    BiGAN,
    Cutoff,
    DistillSides,
    Electra,
    FlatNCE,
    InstanceContrast,
    JigsawClustering,
    LocalAggregation,
    MoCo,
    NextSentence,
    NextToken,
    Pairs,
    PermutationLM,
    PixContrast,
    SimCSE,
    SimSiam,
    Sum,
    SwAV,
    VideoColorization,
    total,
)
from unlabel.objectives.clusters import Clusterings, Clusters
from unlabel.objectives.state import Fixed, Tally
from unlabel.training import pretraining
from unlabel.training.micro import _part
from unlabel.training.pretraining import Pretraining

TEXT = {
    "simcse": lambda: SimCSE(),
    "simcse_learned": lambda: SimCSE(learn_temperature=True),
    "cutoff_token": lambda: Cutoff(cut="token", ratio=0.3),
    "cutoff_span": lambda: Cutoff(cut="span", ratio=0.3),
    "cutoff_feature": lambda: Cutoff(cut="feature", ratio=0.3),
    "mlm": lambda: MLM(rate=0.3),
    "moco": lambda: MoCo(queue=24, width=16),
    "pairs": lambda: Pairs(negative=True, projector=True),
    "swav_text": lambda: SwAV(**SWAV),
    "dino_text": lambda: DINO(**PROTOTYPES),
    "sum": lambda: Sum({"simcse": SimCSE(), "mlm": MLM(rate=0.3)}, {"mlm": 0.1}),
    "electra": lambda: Electra(rate=0.3, size=0.5, layers=1, heads=2),
    "tsdae": lambda: TSDAE(layers=1, heads=2),
    "nsp": lambda: NextSentence(),
    "next_token": lambda: NextToken(),
    "permutation_lm": lambda: PermutationLM(share=0.3),
    "bert": lambda: Sum(
        {"mlm": MLM(rate=0.3, before="next_sentence"), "nsp": NextSentence(negatives=0.4)}
    ),
}
METHODS = TEXT | SERIES | JOINT | {name: make for name, (make, _) in VIDEO.items()}
# The first entry of each class.
FIRST = {type(make()): name for name, make in reversed(METHODS.items())}


def fitted(module, batch):
    """The module after one step of what settles, teachers where they were."""
    views = module.view(batch)
    with torch.no_grad():
        module.score(module.encode(views), views, batch)
    for part in module.modules():
        if isinstance(part, Clusters | Clusterings | Fixed | Tally):
            part.step()
    return module


@pytest.fixture(params=METHODS)
def make(request, make_encoder, make_batch):
    """Makes the objective with its encoder, dropout off, and a batch: `make(seed=0, first=0)`."""

    def make_one(seed=0, first=0):
        method = METHODS[request.param]()
        if request.param in VIDEO:
            video = tiny_video(VIDEO[request.param][1], seed=seed)
            module = Pretraining(video, method)
            # Clusters tell nothing apart until they were fitted.
            return fitted(module, make_video(video, first=40)), make_video(video, first=first)
        if request.param in JOINT:
            return joint(method, first=first, seed=seed)
        text = request.param in TEXT
        encoder = make_encoder(dropout=0.0, seed=seed) if text else TinySeries(seed=seed)
        module = Pretraining(encoder, method, SAMPLES)
        if text:
            return module, make_batch(encoder, rows=8, first=first, partners=True)
        return fitted(module, make_series(encoder, first=40)), make_series(encoder, first=first)

    return make_one


@pytest.fixture
def made(make):
    return make()


@pytest.fixture
def method(made):
    return made[0].objective


def test_the_tester_knows_every_method_of_the_catalogue():
    tested = {type(make()) for make in METHODS.values()}
    assert set(CATALOGUE.values()) <= tested


def test_what_learns_nothing_of_a_sample_by_itself_says_so(made):
    module, batch = made
    widths = [batch.mask.shape[1], *(p["mask"].shape[1] for p in batch.partners.values())]
    try:
        step = module(_part(batch, [0], widths))
    except ValueError as error:  # what takes a spread of its batch says it itself
        assert "give at least two" in str(error)
        return
    step.loss.backward()
    slopes = [p.grad.norm() for p in module.encoder.parameters() if p.grad is not None]
    chances = [float(t.chance) for t in step.terms.values() if t.chance is not None]
    if sum(slopes) < 1e-5 and chances and not any(chances):  # one candidate: nothing to guess
        assert module.objective.needs_others


def test_every_method_says_what_it_is_and_whose(method):
    assert method.paper and type(method).__doc__
    assert isinstance(method, Sum) or "Reference: " in (type(method).__doc__ or "")


def test_loss_is_finite_and_reaches_encoder_and_heads_but_no_teacher(made):
    module, batch = made
    step = module(batch)
    step.loss.backward()
    assert step.loss.isfinite()
    # Where only the layers are read, those above the ones read stay as they are.
    from_top = module.objective.needs & {"pooled", "tokens"}
    for name, p in module.named_parameters():
        if not from_top and name.startswith("encoder") and p.grad is None:
            continue
        if "teacher" in name or "key_projector" in name:
            assert p.grad is None and not p.requires_grad, name
        else:
            assert p.grad is not None and p.grad.isfinite().all(), name


def test_the_order_of_the_batch_does_not_matter(made):
    module, batch = made
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    mixed = batch.to("cpu")
    mixed.inputs = {k: v[order] for k, v in batch.inputs.items()}
    mixed.partners = {n: {k: v[order] for k, v in p.items()} for n, p in batch.partners.items()}
    mixed.mask, mixed.index = batch.mask[order], batch.index[order]
    mixed.ordinal, mixed.label = batch.ordinal[order], batch.label[order]
    torch.testing.assert_close(module(mixed).loss, module(batch).loss, rtol=1e-5, atol=1e-6)


def test_float64_gradient_is_the_numerical_one(made):
    module, batch = made
    method = module.objective
    turned = getattr(method, "discriminator", None) is not None
    if isinstance(method, SimSiam | FlatNCE | SwAV | SLA | DistillSides) or turned:
        pytest.skip("It stops or turns a gradient, which its own tests look at.")
    module = module.double()
    views = module.view(batch)
    with torch.no_grad():
        encodings = module.encode(views)
    leaves = [e.pooled.detach().requires_grad_() for e in encodings]
    tokens = [e.tokens.detach().requires_grad_() for e in encodings]
    layers = [x.detach().clone().requires_grad_() for e in encodings for x in e.layers or ()]
    given = [e.likelihood for e in encodings if e.likelihood is not None]
    layers += [x.detach().clone().requires_grad_() for x in given]

    def loss(*inputs):
        n, left = len(encodings), iter(inputs[2 * len(encodings) :])
        seen = [
            Encoding(
                p,
                t,
                e.mask,
                tuple(next(left) for _ in e.layers) if e.layers else None,
                None if e.table is None else e.table.detach(),
                None if e.likelihood is None else next(left),
            )
            for p, t, e in zip(inputs[:n], inputs[n : 2 * n], encodings, strict=True)
        ]
        return module.score(seen, views, batch).loss

    online = [s.encoder == "online" for s in module.objective.views]
    for leaf, on in zip(leaves, online, strict=True):
        leaf.requires_grad_(on)
    uses_tokens = "tokens" in module.objective.needs
    for t, on in zip(tokens, online, strict=True):
        t.requires_grad_(uses_tokens and on)
    assert torch.autograd.gradcheck(loss, (*leaves, *tokens, *layers), fast_mode=True, atol=1e-7)


def test_bfloat16_agrees_with_float32(made):
    module, batch = made
    exact = module(batch).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = module(batch).loss
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact, rel=0.05, abs=0.02)


def test_weights_of_bfloat16_train(made):
    module, batch = made
    exact = module(batch).loss.item()
    loss = module.bfloat16()(batch).loss
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, rel=0.1, abs=0.05)
    loss.backward()
    module.step()  # clusters are fitted
    assert module(batch).loss.isfinite()


def test_state_survives_a_round_trip(make):
    module, batch = make()
    module(batch)
    module.step()
    again, later = make(seed=9, first=4)
    again.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(again(later).loss, module(later).loss)


def test_twenty_steps_lower_the_loss(made):
    module, batch = made
    if getattr(module.objective, "balance", "") == "gradient":
        pytest.skip("Its weights move, and the sum with them.")
    if isinstance(module.objective, BiGAN):
        pytest.skip("Of two players whose losses rise against each other nothing need fall.")
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        step = module(batch)
        # The value of FlatNCE is 1 whatever it learns: the InfoNCE of the same pass tells. Two
        # players' losses need not fall: what is filled in tells.
        telling = step.terms.get("info_nce", step.terms.get("value", step))
        losses.append(telling.loss.item())
        step.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not isinstance(module.objective, DINO):  # its centre spreads the targets meanwhile
            module.step()
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiles_without_changing_the_loss(made, request):
    module, batch = made
    name, kind = request.node.callspec.params["make"], type(module.objective)
    if name != FIRST[kind] and kind is not Sum:
        pytest.skip(f"{FIRST[kind]} is the same class, which compiles alike.")
    exact = module(batch).loss
    torch.testing.assert_close(
        torch.compile(module, backend="aot_eager")(batch).loss, exact, rtol=1e-5, atol=1e-6
    )
    torch.compiler.reset()


# -- known answers -----------------------------------------------------------------------------


def _equal(module, batch, projector=True):
    """Score encodings that are all the same vector."""
    views = module.view(batch)
    width = module.encoder.width
    seen = [
        Encoding(torch.ones(len(v.mask), width), torch.ones(*v.mask.shape, width), v.mask)
        for v in views
    ]
    return module.score(seen, views, batch).terms


def test_equal_embeddings_give_ln_n(make_encoder, make_batch):
    encoder = make_encoder()
    batch = make_batch(encoder, rows=8, partners=True)
    cases = [
        (SimCSE(), "contrast", 8),
        (Cutoff(), "full", 8),
        (Pairs(), "contrast", 8),
        (Pairs(negative=True), "contrast", 16),
    ]
    for objective, term, n in cases:
        terms = _equal(Pretraining(encoder, objective), batch)
        assert terms[term].loss.item() == pytest.approx(math.log(n), abs=1e-5)
        assert terms[term].chance == pytest.approx(math.log(n))


def test_moco_with_a_queue_of_equal_keys_gives_ln_of_k_plus_one(make_encoder, make_batch):
    encoder = make_encoder()
    module = Pretraining(encoder, MoCo(queue=24, width=16))
    key = torch.nn.functional.normalize(module.objective.projector(torch.ones(1, 32)), dim=1)
    module.objective.queue.rows.copy_(key.detach().expand(24, -1))
    terms = _equal(module, make_batch(encoder))
    assert terms["contrast"].loss.item() == pytest.approx(math.log(25), abs=1e-5)


def test_mlm_with_a_silent_head_gives_ln_v(make_encoder, make_batch):
    encoder = make_encoder()
    module = Pretraining(encoder, MLM(rate=0.3))
    with torch.no_grad():
        module.objective.predictor.norm.weight.zero_()
    loss = module(make_batch(encoder)).terms["token"]
    assert loss.loss.item() == pytest.approx(math.log(encoder.table_size[0]), abs=1e-5)
    assert loss.chance == pytest.approx(math.log(encoder.table_size[0]))


def test_simcse_in_eval_mode_sees_two_equal_views(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.3)
    module = Pretraining(encoder, SimCSE())
    batch = make_batch(encoder)
    module.eval()
    a, b = module(batch).pooled
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    module.train()
    a, b = module(batch).pooled
    assert not torch.allclose(a, b, atol=1e-3)


def test_cutoff_of_nothing_has_consistent_views(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0)
    terms = Pretraining(encoder, Cutoff(ratio=0.0))(make_batch(encoder)).terms
    assert terms["consistency"].loss.item() == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(terms["full"].loss, terms["cut"].loss)


def test_cutoffs_consistency_is_exact_under_autocast(make_encoder, make_batch):
    encoder = make_encoder()
    batch = make_batch(encoder)
    random = torch.Generator().manual_seed(0)
    whole = torch.randn(8, 32, generator=random) + 3
    cut = whole + 0.05 * torch.randn(8, 32, generator=random)
    module = Pretraining(encoder, Cutoff(projector=False))
    views = module.view(batch)
    seen = [Encoding(z, z[:, None], batch.mask[:, :1]) for z in (whole, cut)]
    wanted = module.score(seen, views, batch).terms["consistency"].loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module.score(seen, views, batch).terms["consistency"].loss
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


def test_duplicates_of_a_sample_are_no_negatives_of_it(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0)
    module = Pretraining(encoder, SimCSE())
    batch = make_batch(encoder, rows=4)
    twice = cat_batches([batch, batch])
    step = module(twice)
    z = torch.nn.functional.normalize(module.objective.projector(step.pooled[0]), dim=1)
    logits = z @ z.T / 0.05  # without dropout the two views are equal
    same = twice.index[:, None] == twice.index[None, :]
    positive = logits.diagonal()
    others = logits.masked_fill(same, -torch.inf).logsumexp(1)
    expected = torch.nn.functional.softplus(others - positive).mean()
    torch.testing.assert_close(step.loss, expected, rtol=1e-5, atol=1e-6)


def test_a_pair_that_a_batch_holds_twice_is_no_negative_of_itself(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0)
    module = Pretraining(encoder, Pairs(negative=True))
    batch = make_batch(encoder, rows=4, partners=True)
    twice = cat_batches([batch, batch])
    twice.partners = {
        name: {k: torch.cat([x, x]) for k, x in p.items()} for name, p in batch.partners.items()
    }
    step = module(twice)
    query, positive, hard = (torch.nn.functional.normalize(z, dim=1) for z in step.pooled)
    logits = query @ torch.cat([positive, hard]).T / 0.05
    same = twice.index[:, None] == twice.index[None, :]
    others = logits.masked_fill(torch.cat([same, torch.zeros_like(same)], 1), -torch.inf)
    expected = torch.nn.functional.softplus(others.logsumexp(1) - logits.diagonal()).mean()
    torch.testing.assert_close(step.loss, expected, rtol=1e-5, atol=1e-6)


def test_the_same_sample_in_the_queue_is_no_negative(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0)
    module = Pretraining(encoder, MoCo(queue=8, width=16))
    batch = make_batch(encoder, rows=8)
    module(batch)
    module.step()
    module.objective.queue.index.copy_(batch.index)
    every_pair = module(batch).loss
    module.objective.queue.index.fill_(int(batch.index[0]))
    rows_left = module(batch).loss
    assert every_pair != rows_left
    one = make_batch(encoder, rows=1)
    assert module(one).loss.item() == 0.0  # its only negatives are itself


# -- sums ------------------------------------------------------------------------------------


def test_weights_one_and_zero_equal_the_first_alone_gradients_included(make_encoder, make_batch):
    def gradients(objective):
        encoder = make_encoder(dropout=0.0)
        torch.manual_seed(5)
        module = Pretraining(encoder, objective)
        step = module(make_batch(encoder))
        step.loss.backward()
        return step.loss.detach(), [p.grad for p in encoder.parameters()]

    alone, grads = gradients(SimCSE())
    both, same = gradients(Sum({"a": SimCSE(), "b": MLM()}, {"a": 1.0, "b": 0.0}))
    assert torch.equal(alone, both)
    for one, other in zip(grads, same, strict=True):
        assert torch.equal(one, other)


def test_a_sum_is_the_weighted_sum_of_its_terms(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0)
    module = Pretraining(encoder, Sum({"s": SimCSE(), "c": Cutoff(consistency=2.0)}, {"c": 0.3}))
    step = module(make_batch(encoder))
    t = {k: v.loss for k, v in step.terms.items()}
    expected = t["s/contrast"] + 0.3 * (t["c/full"] + t["c/cut"] + 2.0 * t["c/consistency"])
    torch.testing.assert_close(step.loss, expected)
    torch.testing.assert_close(total(step.terms), expected)


def test_a_sum_encodes_shared_views_once_in_one_call(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0)
    module = Pretraining(encoder, Sum({"s": SimCSE(), "c": Cutoff(), "m": MLM()}))
    calls = []
    encoder.model.register_forward_hook(lambda m, args, out: calls.append(out[0].shape[0]))
    module(make_batch(encoder, rows=8))
    # plain 0 (shared), plain 1, cutoff, masked
    assert calls == [32]


def test_partners_much_longer_go_by_themselves_and_nothing_else_changes(make_encoder, monkeypatch):
    encoder = make_encoder(dropout=0.0)
    texts = [{"input_ids": [2, *range(5, 5 + n), 3], "index": n, "ordinal": n} for n in range(8)]
    for n, sample in enumerate(texts):
        sample["partners"] = {"positive": [2, *range(5 + n, 40), 3]}
    batch = encoder.collator(seed=0)(texts)
    found = []
    for like, expected in ((0.0, [(16, 37)]), (0.8, [(8, 37), (8, 9)])):
        monkeypatch.setattr(pretraining, "LIKE", like)
        torch.manual_seed(5)
        module, calls = Pretraining(encoder, Pairs()), []
        hook = encoder.model.register_forward_hook(
            lambda m, args, out, calls=calls: calls.append(tuple(out[0].shape[:2]))
        )
        encoder.zero_grad()
        loss = module(batch).loss
        loss.backward()
        hook.remove()
        assert calls == expected
        found.append([loss.detach(), *(p.grad for p in encoder.parameters() if p.grad is not None)])
    torch.testing.assert_close(*found)


def test_refusals_name_what_is_missing(make_encoder):
    with pytest.raises(ValueError, match="Weight given for mlmm, but the objectives are s"):
        Sum({"s": SimCSE()}, {"mlmm": 1.0})
    with pytest.raises(ValueError, match="at least one objective"):
        Sum({})
    encoder = make_encoder()
    encoder.gives = frozenset({"pooled"})
    with pytest.raises(ValueError, match="MLM needs a vocabulary, a vector of each token"):
        Pretraining(encoder, MLM())
    (series := TinySeries()).gives -= {"turned"}
    del series.turned
    with pytest.raises(ValueError, match="SLA needs views that can be told apart"):
        Pretraining(series, SLA(), classes=3)
    made: Any
    for made, named in (
        (SimCSE, "temperature"),
        (SwAV, "temperature"),
        (DINO, "teacher_temperature"),
        (LocalAggregation, "temperature"),
        (PixContrast, "temperature"),
        (JigsawClustering, "temperature"),
        (VideoColorization, "temperature"),
    ):
        for wrong in (0, -0.1):
            with pytest.raises(ValueError, match=f"A temperature is above 0, but {wrong} came"):
                made(**{named: wrong})
    for made in (MoCo, CURL):
        with pytest.raises(ValueError, match=r"share from 0 to 1, but 1\.5 came"):
            Pretraining(TinySeries(), made(momentum=1.5))


def test_usual_views_are_those_of_the_kind_of_data(make_encoder):
    encoder = TinySeries()
    method = MoCo(queue=8, width=4)
    both = Sum({"a": method, "b": InstanceContrast(width=4)})
    Pretraining(encoder, both, 7)
    assert [v.name for v in method.views] == ["crop+jitter"] * 2
    assert [v.encoder for v in method.views] == ["online", "teacher"]
    assert len(both.views) == 3 and both.samples == method.samples == 7
    text = MoCo(queue=8, width=4)
    Pretraining(make_encoder(), text)
    assert [v.name for v in text.views] == ["plain"] * 2
