"""`unlabel evolve`: the weights of several losses, searched without labels."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import yaml

from unlabel.benchmarks.zipf import zipf_fitness
from unlabel.cli import main
from unlabel.evolution import first_generation, next_generation, scaled
from unlabel.evolve import evolve, weighted
from unlabel.evolved import Candidate, Evolved
from unlabel.fitness import fitness_of, worst
from unlabel.modalities.audio import AudioEncoder
from unlabel.objectives import InstanceContrast, MaskedValues, MotionClustering, Sum
from unlabel.recipe import plain
from unlabel.training.arguments import TrainingArguments
from unlabel.training.pretraining import Pretraining

SIZES = {"num_mel_bins": 16, "patch_size": 16, "num_hidden_layers": 1, "hidden_size": 16}
RECIPE = {
    "modality": "audio",
    "objective": {
        "class_path": "unlabel.objectives.Sum",
        "init_args": {
            "objectives": {
                "near": {
                    "class_path": "unlabel.objectives.InstanceContrast",
                    "init_args": {"temperature": 0.1},
                },
                "masked": {"class_path": "unlabel.objectives.MaskedValues"},
            },
            "weights": {"masked": 0.3},
        },
    },
    "audio": {"config": SIZES, "limit": 16},
    "training": {
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    },
}


def both():
    return {"near": InstanceContrast(temperature=0.1), "masked": MaskedValues()}


def test_weights_are_scaled_to_a_largest_of_one():
    assert scaled([2, 0.5, -1]) == (1, 0.25, 0) and scaled([0, -1]) is None


def test_the_first_generation_has_equal_weights_and_each_loss_alone():
    found = first_generation(3, 8, seed=0, own=[(1.0, 0.2, 0.0), (1.0, 1.0, 1.0)])
    assert found[:4] == [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)] and found[4] == (1, 0.2, 0)
    assert len(set(found)) == 8 and all(max(w) == 1 and min(w) >= 0 for w in found)
    assert found == first_generation(3, 8, seed=0, own=[(1.0, 0.2, 0.0)])
    assert found != first_generation(3, 8, seed=1, own=[(1.0, 0.2, 0.0)])


def test_evolution_comes_near_the_best_of_a_smooth_fitness_and_repeats_nothing():
    best = (0.3, 1.0, 0.7, 0.1)
    fit = lambda w: -math.dist(w, best)  # noqa: E731
    tried = {w: fit(w) for w in first_generation(4, 8, seed=0)}
    for generation in range(1, 12):
        children = next_generation(tried, 8, seed=0, generation=generation)
        assert len(children) == len(set(children)) == 8 and not set(children) & set(tried)
        again = next_generation(tried, 8, seed=0, generation=generation)
        assert children == again
        tried |= {w: fit(w) for w in children}
    assert max(tried.values()) > -0.2


@pytest.mark.parametrize("name", ["near", "masked"])
def test_one_hot_weights_are_the_single_loss_gradients_and_all(name):
    weights = tuple(float(n == name) for n in both())
    found = []
    for method in (weighted(Sum(both()), weights), both()[name]):
        torch.manual_seed(0)
        encoder = AudioEncoder.from_config(dict(SIZES), dropout=0.0)
        module = Pretraining(encoder, method)
        waves = torch.sin(torch.arange(8000) * torch.linspace(0.05, 0.5, 6)[:, None])
        sounds = [{"waveform": w.numpy(), "index": i, "ordinal": i} for i, w in enumerate(waves)]
        loss = module(encoder.collator(seed=0)(sounds)).loss
        loss.backward()
        grads = [p.grad for p in encoder.parameters()]
        found.append((loss.detach(), [g for g in grads if g is not None]))
    (mine, own), (single, theirs) = found
    torch.testing.assert_close(mine, single, rtol=0, atol=0)
    for a, b in zip(own, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_an_objective_says_the_arguments_it_was_made_with_whatever_became_of_them():
    method = Sum({"a": InstanceContrast(augment="crop"), "b": MotionClustering()}, {"b": 0.5})
    said = plain(weighted(method, (1.0, 0.0)))
    assert said["init_args"]["weights"] == {"a": 1.0, "b": 0.0}
    assert said["init_args"]["objectives"]["a"] == {
        "class_path": "unlabel.objectives.InstanceContrast",
        "init_args": {"augment": "crop"},
    }
    with pytest.raises(ValueError, match="A recipe cannot say"):
        plain({"x": torch.nn.ReLU()})


@pytest.mark.parametrize(
    "objective, said",
    [
        (InstanceContrast(), "at least two losses.*InstanceContrast came"),
        (Sum({"near": InstanceContrast()}), "at least two losses"),
        (Sum(both(), {"near": [(0, 1.0), (9, 0.0)]}), "change with the steps"),
    ],
)
def test_what_has_no_weights_to_search_is_refused(objective, said, tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path / "out"), report_to="none")
    with pytest.raises(ValueError, match=said):
        evolve(objective=objective, modality="audio", training=args)
    assert not (tmp_path / "out").exists()


def test_counts_that_make_no_search_are_refused(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path / "out"), report_to="none")
    with pytest.raises(ValueError, match="generations is at least 1, clusters is at least 2"):
        evolve(objective=Sum(both()), modality="audio", training=args, generations=0, clusters=1)


class Told:
    """An encoder whose views of a sample are what it is told, `(samples, views, width)`."""

    usual, training = "crop+jitter", False

    def __init__(self, vectors):
        self.vectors, self.seen = vectors, set()

    def eval(self):
        return self

    to = train = lambda self, _: self

    def collator(self, *, seed):
        return lambda samples: torch.tensor(samples)

    def view(self, batch, spec):
        self.seen.add(spec.name)
        return self.vectors[batch, spec.draw]

    def __call__(self, seen):
        return SimpleNamespace(pooled=seen)


def test_views_are_found_where_the_second_is_nearest_and_are_the_kinds_own():
    how = {"clusters": 2, "samples": 8, "seed": 0, "device": "cpu"}
    one = torch.eye(8)[:, None] * torch.rand(8, 1, 1).add(0.5)
    half = torch.cat([one, torch.cat([one[:4], one[4:].roll(1, 0)])], 1)
    for vectors, found in ((one.expand(8, 2, 8), 100), (half, 50), (half * torch.nan, 0)):
        encoder = Told(vectors.contiguous())
        assert fitness_of("views", encoder, range(8), **how) == {"fitness": found}
        assert encoder.seen == {"crop+jitter"}
    assert worst("views", 2) == 0 and worst("zipf", 2) == zipf_fitness([1, 0])
    alike = fitness_of("zipf", Told(torch.ones(8, 1, 8) * torch.nan), range(8), **how)
    assert alike == {"fitness": worst("zipf", 2)}


def test_of_equally_fit_candidates_the_first_is_the_best_and_it_says_so(capsys):
    tried = [Candidate((1.0, w), 0, f) for w, f in ((1.0, -0.5), (0.4, -0.2), (0.2, -0.2))]
    found = Evolved(("a", "b"), tuple(tried))
    assert found.weights == {"a": 1.0, "b": 0.4}
    found.print()
    assert "2 of 3 candidates are equally fit" in capsys.readouterr().out
    assert not Evolved(("a", "b"), tuple(tried[:2])).undecided


def run(folder, *more, generations=2):
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    words = ["--generations", str(generations), "--population", "4", "--steps", "2"]
    words += ["--samples", "16", "--clusters", "4", "--training.output_dir", str(folder / "out")]
    main(["evolve", str(recipe), *words, *more])
    return json.loads((folder / "out/evolve.json").read_text())


def settled(found):
    """Without what takes time."""
    return [{k: v for k, v in c.items() if k != "seconds"} for c in found["candidates"]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evolved")
    return folder, run(folder)


@pytest.mark.slow
def test_a_search_measures_every_candidate_and_draws_them(searched):
    folder, found = searched
    first = [c["weights"] for c in found["candidates"]][:4]
    assert first == [[1, 1], [1, 0], [0, 1], [1, 0.3]] and len(found["candidates"]) == 8
    assert found["fitness"] == max(c["fitness"] for c in found["candidates"])
    assert all(sum(c["sizes"]) == 16 and not c["failed"] for c in found["candidates"])
    assert (folder / "out/evolve.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_stopped_search_goes_on_and_trains_nothing_twice(searched):
    folder, before = searched
    models = sorted((folder / "out").glob("w-*/model/model.safetensors"))
    assert len(models) == 8
    lost = models[3].parent.parent / "run.json"  # as if it was stopped there
    about = json.loads(lost.read_text())
    lost.write_text(json.dumps({k: v for k, v in about.items() if k != "result"}))
    times = [m.stat().st_mtime_ns for m in models]
    again = run(folder, generations=3)
    after = [m.stat().st_mtime_ns for m in models]
    assert [a == b for a, b in zip(times, after, strict=True)] == [i != 3 for i in range(8)]
    assert settled(again)[:8] == settled(before) and len(again["candidates"]) == 12


@pytest.mark.slow
def test_a_search_goes_on_with_its_own_fitness_alone_and_names_it(searched, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(searched[0], "--fitness", "views")
    assert "a search of another fitness" in capsys.readouterr().err
    assert "by Zipf's law" in (searched[0] / "out/best.yaml").read_text()
    found = run(tmp_path, "--fitness", "views", generations=1)
    shown = capsys.readouterr().out
    assert "Weights by views found" in shown and "second view is the nearest" in shown
    assert "by views found" in (tmp_path / "out/best.yaml").read_text()
    assert found["measure"] == "views" and not any(c["sizes"] for c in found["candidates"])
    of_16 = [c["fitness"] * 0.16 for c in found["candidates"]]
    assert of_16 == pytest.approx([round(x) for x in of_16], abs=1e-6)


@pytest.mark.slow
def test_processes_find_what_one_finds(searched, tmp_path):
    assert settled(run(tmp_path, "--workers", "2", generations=1)) == settled(searched[1])[:4]


@pytest.mark.slow
def test_another_search_does_not_mix_with_the_one_before(searched, capsys):
    with pytest.raises(SystemExit):
        run(searched[0], "--audio.limit", "12", "--training.learning_rate", "1e-2")
    assert "a search of another encoder, learning_rate" in capsys.readouterr().err


@pytest.mark.slow
def test_the_best_weights_are_a_recipe_that_trains(searched):
    folder, found = searched
    best = yaml.safe_load((folder / "out/best.yaml").read_text())
    losses = best["objective"]["init_args"]["objectives"]
    assert set(losses) == {n for n, w in found["weights"].items() if w > 0}
    assert best["training"]["max_steps"] == 3 and best["audio"] == RECIPE["audio"]
    main(["train", str(folder / "out/best.yaml")])
    about = json.loads((folder / "out/best/run.json").read_text())
    kept = {n: w for n, w in found["weights"].items() if w > 0}
    assert about["objective"]["weights"] == kept and about["result"]["steps"] == 3
