"""A run small enough to be killed often, and processes to run it in.

Children come from a fork server that has imported everything once, so one starts in well under a
second and shares nothing with the tests' own process.
"""

import faulthandler
import gc
import os
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PrinterCallback, TrainerCallback

from unlabel.benchmarks.fault_ranks import Ranks
from unlabel.data_pipes.sampling import StreamBatches
from unlabel.data_pipes.text import read_text
from unlabel.data_pipes.tokens import TokenStore, train_tokenizer
from unlabel.modalities.text import TextEncoder
from unlabel.objectives import (
    DINO,
    MLM,
    TSDAE,
    Cutoff,
    DeepInfoMax,
    Electra,
    FlatNCE,
    InstDisc,
    InvariantSpread,
    LocalAggregation,
    MoCo,
    NextSentence,
    NextToken,
    Objective,
    Pairs,
    PermutationLM,
    SimCSE,
    Sum,
    SwAV,
)
from unlabel.training.arguments import TrainingArguments
from unlabel.training.pretraining import Pretraining
from unlabel.training.trainer import Trainer

METHODS: dict[str, Callable[[], Objective]] = {
    "simcse": lambda: SimCSE(),
    "simcse_learned": lambda: SimCSE(learn_temperature=True),
    "cutoff": lambda: Cutoff(cut="token", ratio=0.3),
    "mlm": lambda: MLM(rate=0.3),
    "moco": lambda: MoCo(queue=24, width=16),
    "pairs": lambda: Pairs(negative=True),
    "swav": lambda: SwAV(prototypes=5, width=8, hidden=16, crops=2, frozen=2, queue=16),
    "dino": lambda: DINO(
        prototypes=5,
        width=8,
        hidden=16,
        crops=1,
        frozen=2,
        momentum=0.9,
        momentum_steps=10,
        first_temperature=0.06,
        warm_steps=8,
    ),
    "sum": lambda: Sum(
        {"simcse": SimCSE(learn_temperature=True), "mlm": MLM(rate=0.3), "cut": Cutoff(ratio=0.3)},
        {"mlm": 0.1},
    ),
    "bank": lambda: InstDisc(loss="nce", noise=20, width=8),
    "bank_clusters": lambda: LocalAggregation(width=8, clusters=3, neighbours=6, every=0.2),
    "spread": lambda: Sum(
        {
            "spread": InvariantSpread(width=8),
            "flat": FlatNCE(width=8),
            "infomax": DeepInfoMax(bound="dv", width=8),
        }
    ),
    # Everything that has state: queue, teacher, learned temperature, random views, heads.
    "all_state": lambda: Sum(
        {
            "moco": MoCo(queue=20, width=8, momentum=0.9),
            "simcse": SimCSE(learn_temperature=True),
            "cut": Cutoff(cut="span", ratio=0.3),
        },
        balance="gradient",
    ),
    "electra": lambda: Electra(rate=0.3, size=0.5, layers=1, heads=2),
    "tsdae": lambda: TSDAE(layers=1, heads=2),
    "next_token": lambda: NextToken(),
    "permutation_lm": lambda: PermutationLM(share=0.3),
    "bert": lambda: Sum(
        {
            "mlm": MLM(rate=0.3, before="next_sentence"),
            "nsp": NextSentence(
                after="mask_tokens",
                args={"mask_tokens.rate": 0.3, "mask_tokens.whole_word": False},
            ),
        }
    ),
    "nsp": lambda: NextSentence(),
}


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of 3 to 14 words."""
    draw = random.Random(seed)
    words = "the cat sat on a mat while rain fell over old towns and rivers ran to sea".split()
    return [" ".join(draw.choices(words, k=draw.randint(3, 14))) for _ in range(count)]


def make_encoder(dropout: float = 0.1, **config: Any) -> TextEncoder:
    """A BERT of 16 numbers a token."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(sentences(50), vocab_size=80, model_max_length=32)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 40,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    return TextEncoder.from_config({**sizes, **config}, tokenizer, max_length=32)


def make_trainer(
    folder: Path | str,
    method: str | Objective = "simcse",
    *,
    dropout: float = 0.1,
    rows: int = 40,
    callbacks: list[TrainerCallback] | None = None,
    stream: bool | Path = False,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Trainer:
    """A trainer of 12 steps of 4 samples unless `options` say otherwise.

    A stream is one of sentences in memory, or of those in a file.
    """
    defaults: dict[str, Any] = {"per_device_train_batch_size": 4, "max_steps": 12, "save_steps": 4}
    defaults |= {"logging_steps": 1, "learning_rate": 1e-3, "length_window": 4}
    defaults |= {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    if os.environ.get("WORLD_SIZE"):
        defaults["ddp_backend"] = "gloo"
    args = TrainingArguments(output_dir=str(folder), **(defaults | options))
    encoder, texts = make_encoder(dropout), sentences(rows)
    objective = METHODS[method]() if isinstance(method, str) else method
    module = Pretraining(encoder, objective, None if stream else rows).to(dtype)
    partners = {"positive": texts[1:] + texts[:1], "negative": texts[2:] + texts[:2]}
    if stream:
        size = args.per_device_train_batch_size
        source = read_text(stream, streaming=True) if isinstance(stream, Path) else texts
        store: Any = StreamBatches(
            source, encoder.tokenize, size, seed=args.seed, window=3, passes=None,
            rank=args.process_index, world_size=args.world_size,
        )  # fmt: skip
    else:
        store = TokenStore(
            texts, encoder.tokenizer, max_length=32, partners=partners, progress=False
        )
    trainer = Trainer(module, args, store, encoder.collator(seed=args.seed), callbacks)
    trainer.remove_callback(PrinterCallback)
    return trainer


def training_lines(trainer: Trainer) -> list[dict[str, Any]]:
    """The log lines of training steps, but for their timings."""
    lines = [line for line in trainer.state.log_history if "loss" in line]
    return [{k: v for k, v in line.items() if k != "monitor/waiting"} for line in lines]


def outcome(trainer: Trainer) -> dict[str, Any]:
    """All that a run leaves behind, but for its timings."""
    return {
        "weights": {k: v.clone() for k, v in trainer.model.state_dict().items()},
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "log": training_lines(trainer),
        "step": trainer.state.global_step,
        "skipped": trainer.skipped,
    }


def _child(rank: int, work: Callable, outs: list[str], timeout: float, options: dict) -> None:
    # A process that crashes, or is about to be killed for being late, first says where it stands.
    out = outs[rank]
    stacks = Path(f"{out}.error").open("w")
    faulthandler.enable(stacks)
    faulthandler.dump_traceback_later(0.9 * timeout, file=stacks)
    torch.set_num_threads(1)
    gc.freeze()  # what is imported is not looked at by each of the run's collections
    transformers.utils.logging.set_verbosity_error()
    try:
        torch.save(work(**options), out)
    except BaseException as error:
        Path(f"{out}.error").write_text(f"{error!r}\n{traceback.format_exc()}")
        raise SystemExit(3) from error
    finally:
        faulthandler.cancel_dump_traceback_later()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


class Ended:
    """How the ranks of a launch ended: exit codes, what they gave back, what they raised."""

    def __init__(self, codes: list[int | None], outs: list[Path]):
        self.codes = codes
        load = lambda path: torch.load(path, weights_only=False)  # noqa: E731
        self.results: list[Any] = [load(o) if o.exists() else None for o in outs]
        errors = [Path(f"{o}.error") for o in outs]
        self.errors = [e.read_text() if e.exists() else "" for e in errors]

    @property
    def result(self) -> Any:
        """What rank 0 gave back, when all ended well."""
        assert set(self.codes) == {0}, f"exit codes {self.codes}\n" + "\n".join(self.errors)
        return self.results[0]


def launch(
    place: Path, work: Callable, ranks: int = 1, /, *, timeout: float = 600, **options: Any
) -> Ended:
    """Run `work(**options)` in processes of its own: the ranks of a gloo group, if there are many.

    Args:
        place: folder for the results.
        work: a function of a module, returning something that torch can save.
        ranks: processes.
        timeout: seconds until the processes are killed, which shows as exit code -9.
        options: of `work`.
    """
    place.mkdir(parents=True, exist_ok=True)
    outs = [place / f"result-{r}.pt" for r in range(ranks)]
    for out in outs:
        out.unlink(missing_ok=True)
        Path(f"{out}.error").unlink(missing_ok=True)
    given = (work, [str(o) for o in outs], timeout, options)
    imported = ("unlabel.training.trainer", "sklearn", "accelerate")
    return Ended(Ranks(_child, ranks, given, imported=imported).join(timeout), outs)
