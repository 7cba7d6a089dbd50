"""Methods by kinds of data: what runs is trained on real data, all else refuses."""

import copy
import functools
import gzip
import inspect
from typing import Any

import pandas as pd
import pytest
import torch

from unlabel.core import view
from unlabel.modalities import MODALITIES
from unlabel.objectives import CATALOGUE, Objective
from unlabel.pretrain import KINDS
from unlabel.training.arguments import TrainingArguments
from unlabel.training.pretraining import Pretraining, why_not

pytestmark = [pytest.mark.slow, pytest.mark.data]

ROWS, STEPS = 8, 12
PATCHES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES |= {"intermediate_size": 48, "patch_size": 8}
RESNET = {"model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}
FLOW = {"model_type": "coupling_flow", "hidden_size": 16, "num_hidden_layers": 2}
CAUSAL = {"causal": True}  # of the options, and no key of a configuration
# The encoders of each kind of data, the first one that gives what a method needs is taken.
ENCODERS = {
    "text": [{"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}],
    "series": [
        {"d_model": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
        {"model_type": "dilated_conv", "hidden_size": 16, "num_hidden_layers": 3},
        FLOW,
    ],
    "frames": [PATCHES, FLOW, PATCHES | CAUSAL],
    "video": [PATCHES | {"tubelet_size": 2}, RESNET, FLOW, PATCHES | {"tubelet_size": 2} | CAUSAL],
    "audio": [
        {**PATCHES, "num_mel_bins": 16, "patch_size": 16},
        {"model_type": "wave_conv", "hidden_size": 24},
    ],
}
# What small batches and short views need; given to the methods that have such an argument.
SMALL = {"queue": 16, "noise": 16, "clusters": 4, "neighbours": 4, "codes": 16}
SMALL |= {"horizon": 8, "steps": 2, "hidden": 24, "width": 16, "prototypes": 16, "segments": 2}
OPTIONS = {
    "time_contrast": {"near": 1, "far": 2},
    "mlm": {"rate": 0.4},
    "deep_infomax": {"prior_weight": 0.0},  # the prior is a second player: no sum need fall
    "local_aggregation": {"temperature": 0.2},
    "instdisc": {"temperature": 0.2},
    "s4l": {"classes": 8},
    "sla": {"classes": 8},
}
CELLS = [(name, kind) for name in CATALOGUE for kind in MODALITIES]


def runs(name, kind):
    return not why_not(CATALOGUE[name](), MODALITIES[kind])


def method(name):
    made = CATALOGUE[name]
    takes = {p for c in made.__mro__ for p in inspect.signature(c.__init__).parameters}
    small = {k: v for k, v in SMALL.items() if k in takes} | OPTIONS.get(name, {})
    if name in ("barlow", "vicreg"):
        small["width"] = 8
    return made(**small)


@pytest.fixture(scope="module")
def read(data_folder, tmp_path_factory):
    return reader(data_folder, tmp_path_factory.mktemp("matrix"))


def reader(data_folder, folder):
    """Makes an encoder and real samples of a kind of data, read once for each use of it."""
    with gzip.open(data_folder / "text/wiki_en_valid.txt.gz", "rt") as lines:
        given = [next(lines).strip() for _ in range(60)]
    table = pd.DataFrame({"one": given, "positive": given[1:] + given[:1]})
    table["negative"] = given[9:] + given[:9]
    table.to_csv(folder / "text.csv", index=False)
    video = data_folder / "video"
    clips = [str(p) for p in sorted((video / "weizmann9").rglob("*.mp4"))[:10]]
    pairs = pd.read_csv(video / "multiview_gestures/pairs.csv").drop(columns="frames")
    pairs["path"] = [str(video / "multiview_gestures" / p) for p in pairs["path"]]
    pairs.to_csv(folder / "views.csv", index=False)
    sounds = [str(p) for p in sorted((data_folder / "audio/fsdd/recordings").glob("*.wav"))[::97]]
    more = {
        "text": {"vocabulary": 300, "columns": ["one", "positive", "negative"], "dropout": 0.1},
        "series": {"context": 128, "rows": [0, 2000], "channels": "independent", "dropout": 0.0},
        "frames": {"size": 32, "cache_gb": 0},
        "video": {"size": 32, "frames": 8, "window": 12, "cache_gb": 0},
        "audio": {"rate": 8000, "seconds": 0.8, "hop": 0.005, "window": 0.016},
    }
    data = {"text": str(folder / "text.csv"), "series": str(data_folder / "series/ETTh1.csv.gz")}
    data |= {"frames": clips, "video": clips, "audio": sounds}
    args = TrainingArguments(output_dir=str(folder / "out"), report_to="none")

    @functools.cache
    def prepared(kind, place, horizon, beside, links):
        config = dict(ENCODERS[kind][place])
        options = KINDS[kind](**{k: config.pop(k) for k in CAUSAL.keys() & config}, **more[kind])
        options.config = config
        options.view_column = "view" if "view" in beside else None
        source = str(folder / "views.csv") if "view" in beside else data[kind]
        asks: Any = _Asks(horizon, beside, links)
        return options.prepare(source, asks, args, None)

    return prepared


class _Asks:
    """What reading the data needs to know of an objective."""

    def __init__(self, horizon, beside, links):
        self.horizon = horizon
        self.views = [view(link, partner=p) for p in (*beside, None) for link in (*links, "plain")]


@pytest.mark.parametrize(("name", "kind"), [c for c in CELLS if runs(*c)])
def test_a_cell_that_runs_trains_on_real_data(name, kind, read):
    _learns(name, *cell(name, kind, read))


def cell(name, kind, read):
    """The method on the first encoder that suits it, and a batch of real data."""
    objective = method(name)
    beside = tuple(sorted({v.partner for v in objective.views if v.partner is not None}))
    links = ("motion",) if "motion" in {p.name for v in objective.views for p in v.parts()} else ()
    for place in range(len(ENCODERS[kind])):
        made = read(kind, place, objective.horizon, beside, links)
        torch.manual_seed(0)
        encoder = copy.deepcopy(made.encoder).train()
        try:
            module = Pretraining(encoder, method(name), made.samples)
            break
        except ValueError:  # another encoder of this kind of data may do
            if place == len(ENCODERS[kind]) - 1:
                raise
    batch = encoder.collator(seed=0)([made.store[i] for i in range(ROWS)])
    if (batch.label < 0).all():  # of data without classes, as if it had three
        batch.label = torch.arange(ROWS) % 3
    return module, batch


@pytest.mark.parametrize("name", ["clip", "siglip", "cmc", "distill_sides"])
def test_sides_of_real_samples_are_trained(name, data_folder, tmp_path):
    small = {k: v for k, v in PATCHES.items() if k != "patch_size"}
    sides = {
        "frames": {"column": "path", "size": 32, "cache_gb": 0, "config": PATCHES},
        "text": {"column": "caption", "vocabulary": 200, "config": small, "dropout": 0.0},
    }
    made = KINDS["pairs"](sides=sides, width=16, limit=90).prepare(
        str(data_folder / "video/colored_shapes/captions.csv"),
        Objective(),
        TrainingArguments(output_dir=str(tmp_path), report_to="none"),
        None,
    )
    torch.manual_seed(0)
    module = Pretraining(made.encoder.train(), method(name), made.samples)
    # Every fifth has another caption.
    _learns(name, module, made.encoder.collator(seed=0)([made.store[5 * i] for i in range(ROWS)]))


def _learns(name, module, batch):
    """The loss falls, and every part that learns is reached."""
    with torch.no_grad():
        module(batch)
    module.step()  # clusters and memories have seen something
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(STEPS):
        torch.manual_seed(0)
        found = module(batch)
        loss = found.terms.get("info_nce", found.terms.get("value", found)).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        found.loss.backward()
        if step == 0:
            _reached(module)
        optimizer.step()
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    if name != "bigan":  # two players: nothing need fall
        assert sum(losses[-3:]) < sum(losses[:3]), losses


def _reached(module):
    """Every part that learns has a gradient that is finite and not 0; no teacher has any."""
    parts = [("encoder", module.encoder), *module.objective.named_children()]
    for name, part in parts:
        own = [p for p in part.parameters() if p.requires_grad]
        grads = [p.grad for p in own if p.grad is not None]
        assert all(g.isfinite().all() for g in grads), name
        assert not own or any(g.any() for g in grads), name
    assert module.teacher is None or all(p.grad is None for p in module.teacher.parameters())


@pytest.mark.parametrize(("name", "kind"), [c for c in CELLS if not runs(*c)])
def test_a_cell_that_does_not_run_says_why_before_any_work(name, kind, read):
    made = read(kind, 0, 0, (), ())
    with pytest.raises(ValueError, match="needs"):
        Pretraining(made.encoder, CATALOGUE[name](), made.samples)
    reason = why_not(CATALOGUE[name](), MODALITIES[kind])
    assert reason.startswith("needs ")
