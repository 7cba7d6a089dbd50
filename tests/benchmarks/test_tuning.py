"""Fine-tuning: the labels it uses, the layers it keeps, and what is distilled from it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unlabel.benchmarks import tuning as module
from unlabel.benchmarks.labelled import labelled
from unlabel.benchmarks.saved import projector_layers, saved_projector
from unlabel.benchmarks.tuning import Distillation, Recognition, Tuning, tuned_accuracy
from unlabel.modalities.visual import VisualEncoder
from unlabel.training.pretraining import Pretraining


def encoder(seed=0, frames=4):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16, "patch_size": 16}  # fmt: skip
    return VisualEncoder.from_config(sizes, frames=frames, size=32)


def kept(folder, layers):
    found = projector_layers(folder, layers)
    assert found is not None
    return found


def bright(count=24):
    """Clips that are dark or bright, in three groups."""
    rng = np.random.default_rng(0)
    label = np.arange(count) % 2
    clips = [
        [(rng.integers(0, 60, (4, 32, 32, 3)) + 150 * k).astype(np.uint8) for _ in range(2)]
        for k in label
    ]
    return labelled("bright", range(count), label.astype(str), group=np.arange(count) // 8), clips


def test_it_learns_what_the_labels_say_and_leaves_the_encoder_alone():
    data, clips = bright()
    own = encoder()
    before = {k: v.clone() for k, v in own.state_dict().items()}
    how = Tuning(steps=25, learning_rates=(3e-3,), batch_size=8, checks=5)
    right = tuned_accuracy(own, data, clips, how)
    assert list(right) == ["fine-tuned"]
    assert right["fine-tuned"].shape == (24,) and right["fine-tuned"].mean() > 0.9
    assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps is at least 1"),
        ({"labels": 0.0}, "labels is a share above 0"),
        ({"distilling": -1}, "0 or more"),
        ({"temperature": 0.0}, "above 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Tuning(**wrong)


def test_a_share_of_the_labels_of_every_class_is_used_and_all_clips_are_distilled(monkeypatch):
    data, clips = bright()
    seen = {}
    inner = module._train

    def train(encoder, objective, store, *rest):
        seen.setdefault(type(objective).__name__, []).append(store.label)
        return inner(encoder, objective, store, *rest)

    monkeypatch.setattr(module, "_train", train)
    how = Tuning(
        steps=20, learning_rates=(3e-3,), batch_size=8, checks=5, labels=0.5, distilling=25
    )
    below = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    before = [p.clone() for p in below.parameters()]
    right = tuned_accuracy(encoder(), data, clips, how, below=below)
    assert {len(label) for label in seen["Distillation"]} == {16}
    assert all(0 < (label == k).sum() <= 4 for label in seen["Recognition"] for k in (0, 1))
    assert list(right) == ["fine-tuned", "distilled"]
    assert right["distilled"].mean() > 0.9
    assert all(torch.equal(p, b) for p, b in zip(below.parameters(), before, strict=True))


def test_distillation_is_the_cross_entropy_with_the_teacher_who_learns_nothing():
    torch.manual_seed(0)
    teacher = Pretraining(encoder(1), Recognition(classes=3))
    nn.init.normal_(next(iter(teacher.objective.parameters())))
    student = Pretraining(encoder(2), Distillation(teacher, temperature=2.0, classes=3))
    clips = np.random.default_rng(0).integers(0, 255, (5, 4, 32, 32, 3)).astype(np.uint8)
    samples = [{"frames": x, "index": i, "ordinal": i} for i, x in enumerate(clips)]
    batch = student.encoder.collator()(samples)
    found = student(batch)
    seen = student.encoder.view(batch, student.objective.views[0])
    with torch.no_grad():
        says = teacher.objective.logits(teacher.encoder(seen))
        own = student.objective.logits(student.encoder(seen))
    exact = -((says / 2).softmax(-1) * F.log_softmax(own / 2, -1)).sum(1).mean()
    torch.testing.assert_close(found.loss.detach(), exact)
    found.loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(k.startswith("objective._teacher") for k in student.state_dict())
    torch.testing.assert_close(found.terms["distill"].chance, float(np.log(3)))


@pytest.mark.slow
def test_the_layers_kept_are_the_runs_own_and_random_ones_for_the_untrained_encoder(tmp_path):
    from unlabel.benchmarks.actions import bench_actions
    from unlabel.cli import main as unlabel
    from unlabel.data_pipes.synthetic_video import embedded_videos

    run, data = tmp_path / "run", str(embedded_videos()[0].path.parent)
    sizes = "{model_type: resnet, hidden_sizes: [8, 16], depths: [1, 1]}"
    words = ["--modality", "frames", "--data", data, "--objective", "simclr", "--frames.limit", "8"]
    words += ["--frames.config", sizes, "--frames.size", "32", "--training.max_steps", "2"]
    words += ["--training.per_device_train_batch_size", "8", "--training.report_to", "none"]
    words += ["--objective.layers", "3", "--training.save_steps", "2"]
    unlabel(["train", *words, "--training.output_dir", str(run)])
    whole, first = saved_projector(run), kept(run / "model", 1)
    assert len(list(first.children())) == 2
    assert torch.equal(first[0].weight, whole[0].weight)
    fresh = kept(run / "untrained", 1)
    assert fresh[0].weight.shape == first[0].weight.shape
    assert not torch.equal(fresh[0].weight, first[0].weight)
    with pytest.raises(ValueError, match="no 3 layers to keep"):
        projector_layers(run / "model", 3)
    how = Tuning(steps=2, learning_rates=(1e-3,), checks=1, projector_layers=1, distilling=2)
    found = bench_actions(run, controls=False, finetune=True, tuning=how, bootstrap=0, clips=1)
    names = list(found.encoders[0].scores)
    assert "embedded fine-tuned" in names and "embedded distilled" in names
