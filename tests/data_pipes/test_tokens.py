import pickle
import subprocess
import sys
from itertools import islice

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from unlabel.data_pipes.audio_store import AudioStore
from unlabel.data_pipes.pairs import PairStore
from unlabel.data_pipes.redraw import ByOrdinal
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.data_pipes.tokens import TokenStore, train_tokenizer
from unlabel.data_pipes.video_store import VideoStore
from unlabel.kinds.text import TextOptions
from unlabel.objectives import SimCSE
from unlabel.training.arguments import TrainingArguments

SENTENCES = [f"The {w} cat sat on mat number {i}." for i, w in enumerate(["big", "small"] * 60)]
LONG = " ".join(["cat"] * 40)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(SENTENCES, vocab_size=200)


def test_a_known_sentence_goes_there_and_back(tokenizer):
    ids = tokenizer("The big CAT sat.")["input_ids"]
    assert tokenizer.decode(ids) == "[CLS] the big cat sat. [SEP]"
    assert tokenizer.unk_token_id not in ids
    assert len(tokenizer) <= 200
    assert [tokenizer.pad_token, tokenizer.mask_token] == ["[PAD]", "[MASK]"]
    assert set(tokenizer("a")) == {"input_ids", "attention_mask"}


def test_case_is_kept_when_asked():
    cased = train_tokenizer(SENTENCES, vocab_size=200, lowercase=False)
    assert cased("The")["input_ids"] != cased("the")["input_ids"]


def test_the_same_sentences_give_the_same_vocabulary_in_another_process(tokenizer):
    code = (
        "from unlabel.data_pipes.tokens import train_tokenizer\n"
        f"s = {SENTENCES!r}\n"
        "print(sorted(train_tokenizer(s, vocab_size=200).get_vocab().items()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(sorted(tokenizer.get_vocab().items()))


def test_rare_characters_become_unknown_and_ties_do_not_decide():
    rare = [*SENTENCES, "ключ", "мост"]
    limited = train_tokenizer(rare, vocab_size=200, max_characters=30)
    assert limited.unk_token_id in limited("ключ")["input_ids"]
    assert limited.unk_token_id not in limited("cat")["input_ids"]


def test_a_saved_tokenizer_loads_with_auto_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(SENTENCES[0])["input_ids"] == tokenizer(SENTENCES[0])["input_ids"]
    assert again.model_max_length == tokenizer.model_max_length


@pytest.mark.parametrize(
    ("sentences", "options", "message"),
    [
        ([], {}, "none with a character"),
        (["  "], {}, "none with a character"),
        ("a string", {}, "one string"),
        (SENTENCES, {"vocab_size": 10}, "take at least"),
    ],
)
def test_a_tokenizer_that_cannot_be_trained_is_refused(sentences, options, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(sentences, **options)


@pytest.mark.parametrize("in_file", [False, True])
def test_the_store_gives_what_the_tokenizer_gives(tokenizer, tmp_path, in_file):
    path = tmp_path / "store" if in_file else None
    sentences = [*SENTENCES, LONG]
    store = TokenStore(sentences, tokenizer, max_length=16, path=path, progress=False)
    expected = tokenizer(sentences, truncation=True, max_length=16)["input_ids"]
    assert [store[i]["input_ids"].tolist() for i in range(len(store))] == expected
    assert store.lengths.tolist() == [len(row) for row in expected]
    assert store.lengths.max() == 16
    assert store.truncated == pytest.approx(1 / len(sentences))
    assert "121 sentences" in store.summary()


def test_a_loop_over_a_store_ends_with_the_epoch(tokenizer):
    store = TokenStore(SENTENCES, tokenizer, max_length=16, progress=False)
    assert [s["ordinal"] for s in islice(store, 1000)] == list(range(len(SENTENCES)))
    assert all(issubclass(s, ByOrdinal) for s in (AudioStore, PairStore, SeriesStore, VideoStore))


def test_an_ordinal_of_a_later_epoch_names_the_same_sentence(tokenizer):
    store = TokenStore(SENTENCES, tokenizer, max_length=16, progress=False)
    ordinal = 3 * len(store) + 5
    sample = store[ordinal]
    assert (sample["index"], sample["ordinal"]) == (5, ordinal)
    np.testing.assert_array_equal(sample["input_ids"], store[5]["input_ids"])
    with pytest.raises(IndexError):
        store[-1]


def test_unknown_tokens_are_counted(tokenizer):
    store = TokenStore(["ключ", "cat"], tokenizer, max_length=16, progress=False)
    assert store.unknown == pytest.approx(1 / 6)


@pytest.mark.parametrize("in_file", [False, True])
def test_partners_stay_with_their_sentence(tokenizer, tmp_path, in_file):
    store = TokenStore(
        SENTENCES, tokenizer, max_length=16, progress=False,
        partners={"positive": SENTENCES[::-1]}, path=tmp_path / "s" if in_file else None,
    )  # fmt: skip
    store = pickle.loads(pickle.dumps(store))
    sample = store[len(store) + 2]
    np.testing.assert_array_equal(sample["partners"]["positive"], store[117]["input_ids"])
    own = TokenStore(SENTENCES, tokenizer, max_length=16, progress=False).lengths
    assert store.lengths.tolist() == list(map(list, zip(own, own[::-1], strict=True)))


def test_a_store_in_a_file_travels_as_its_path_and_opens_again(tokenizer, tmp_path):
    store = TokenStore(SENTENCES * 50, tokenizer, max_length=16, path=tmp_path, progress=False)
    assert len(pickle.dumps(store)) < 500
    again = TokenStore.open(tmp_path)
    assert again.summary() == store.summary()
    np.testing.assert_array_equal(again[77]["input_ids"], store[77]["input_ids"])


def test_a_damaged_store_is_refused_by_name(tokenizer, tmp_path):
    TokenStore(SENTENCES, tokenizer, max_length=16, path=tmp_path, progress=False)
    ids = tmp_path / "ids.int32"
    ids.write_bytes(ids.read_bytes()[:-4])
    with pytest.raises(ValueError, match="no whole token store"):
        TokenStore.open(tmp_path)
    with pytest.raises(ValueError, match="nowhere"):
        TokenStore.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("sentences", "options", "message"),
    [
        ([], {}, "list of sentences"),
        ("text", {}, "list of sentences"),
        (["a"], {"max_length": 2}, "no room beside 2"),
        (["a"], {"partners": {"positive": ["b", "c"]}}, "'positive' has 2 texts for 1"),
    ],
)
def test_a_store_that_cannot_be_made_is_refused(tokenizer, sentences, options, message):
    with pytest.raises(ValueError, match=message):
        TokenStore(sentences, tokenizer, **{"max_length": 16, **options})


def test_a_run_takes_a_pandas_table_of_text(tmp_path):
    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    options = TextOptions(vocabulary=60, config=config, column="text")
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    table = pd.DataFrame({"text": ["A line.", None, "Another one."], "n": [1, 2, 3]})
    assert options.prepare(table, SimCSE(), args, None).samples == 2
