import sys
import time

import pytest

from unlabel.data_pipes import prose
from unlabel.data_pipes.docstrings import docstring_corpus, docstring_pairs, load_docs

MODULE = '''"""A made-up package for the tests.

It holds a few objects that nobody needs.
"""
raise RuntimeError("this module must never be imported")


class Thing:
    """A thing that holds other things.

    The things are kept in the order in which they came. See [1]_ for more.

    Parameters
    ----------
    size : int, default 3
        How many things there is room for.

    Examples
    --------
    >>> Thing(3)
    The output of the example is no prose.
    """

    def add(self, other):
        """Add one more thing to the end of the line."""


add_docstr(Thing.c, r"""
c(x) -> Tensor

Computes the colour of each element in :attr:`x`.
""")
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "madeup_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(MODULE)
    (folder / "broken.py").write_text("def (:\n")
    (folder / "test_it.py").write_text('"""The tests of a package are not read."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    return "madeup_package"


def test_docstrings_are_read_without_importing_anything(package, tmp_path):
    docs, counts = load_docs([package], cache=tmp_path / "cache")
    by_name = {d.name.split("__init__.")[1]: d for d in docs}
    thing = by_name["Thing"]
    assert thing.summary == "A thing that holds other things."
    assert thing.description[0] == "The things are kept in the order in which they came."
    assert thing.rest == ["How many things there is room for."]
    assert by_name["Thing.add"].summary == "Add one more thing to the end of the line."
    assert by_name["Thing.c"].sentences == ["Computes the colour of each element in x."]
    assert by_name["__doc__"].description == ["It holds a few objects that nobody needs."]
    assert counts == {"packages": 1, "files": 2, "docstrings": 4}
    assert package not in sys.modules


def test_a_cache_is_used_and_a_damaged_one_is_built_anew(package, tmp_path):
    cache = tmp_path / "cache"
    first = load_docs([package], cache=cache)
    (file,) = cache.iterdir()
    assert load_docs([package], cache=cache) == first
    file.write_bytes(file.read_bytes()[:100])
    assert load_docs([package], cache=cache) == first
    assert load_docs([package], cache=cache) == first


def test_the_cache_lies_in_the_users_cache_folder(package, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    docstring_corpus([package])
    assert list((tmp_path / "home" / "unlabel").glob("docstrings-*.parquet"))


def test_a_cache_folder_that_cannot_be_written_only_costs_time(package, tmp_path):
    (tmp_path / "file").write_text("")
    assert load_docs([package], cache=tmp_path / "file" / "cache")[0]


def test_a_package_that_is_not_installed_is_refused_by_name():
    with pytest.raises(ValueError, match="nopackagehere"):
        docstring_corpus(["nopackagehere"])


SMALL = ["fsspec", "joblib", "networkx", "tqdm"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def test_no_sentence_repeats_and_none_belongs_to_a_held_out_object(cache):
    corpus = docstring_corpus(SMALL, cache=cache)
    summaries, descriptions = docstring_pairs(SMALL, cache=cache)
    texts = [plain(t) for t in corpus.texts]
    assert len(texts) > 1000
    assert len(texts) == len(set(texts)) == corpus.report.counts["sentences"]
    held_out = [plain(s) for d in descriptions for s in prose.split_sentences(d)]
    assert len(held_out) >= len(descriptions) > 50
    assert not set(texts) & {*map(plain, summaries), *held_out}


def test_pairs_are_unambiguous_and_no_description_gives_its_summary_away(cache):
    summaries, descriptions = docstring_pairs(SMALL, cache=cache)
    assert len(set(summaries)) == len(summaries) == len(set(descriptions)) == len(descriptions)
    assert not any(plain(s) in plain(d) for s, d in zip(summaries, descriptions, strict=True))


def test_another_package_moves_no_object_between_corpus_and_pairs(cache):
    fewer = set(docstring_pairs(SMALL[:3], cache=cache)[0])
    more = set(docstring_pairs(SMALL, cache=cache)[0])
    corpus = set(docstring_corpus(SMALL, cache=cache).texts)
    assert fewer
    assert not (fewer | more) & corpus


def test_a_limit_takes_an_even_spread_in_the_same_order(cache):
    whole = docstring_corpus(SMALL, cache=cache)
    part = docstring_corpus(SMALL, limit=100, cache=cache)
    assert len(part) == part.report.kept == 100
    places = [whole.texts.index(t) for t in part.texts]
    assert places == sorted(places)
    assert places[-1] > 0.95 * len(whole)


@pytest.mark.parametrize(
    ("text", "summary", "description", "rest"),
    [
        ("Return the sum of all numbers", "Return the sum of all numbers.", [], []),
        ("Use it. Return e.g. the sum of Dr. No.", "", ["Return e.g. the sum of Dr. No."], []),
        (
            "Call :func:`~a.b.run` on the ``data`` of `this page <https://x.y>`_.",
            "Call run on the data of this page.", [], [],
        ),
        (
            "Make a thing of it.\n\nIt is done like this::\n\n    The code of this.\n\n"
            "Then it is all done.",
            "Make a thing of it.", ["Then it is all done."], [],
        ),
        (
            "Make a thing of it.\n\nArgs:\n    x (`int`, *optional*): The size of the thing.\n"
            "        It may be zero or more.\n\nReturns:\n    The thing that was made.",
            "Make a thing of it.", [],
            ["The size of the thing.", "It may be zero or more.", "The thing that was made."],
        ),
        (
            "Make a thing of it.\n\n:param x: The size of the thing.\n"
            ":returns: The thing that was made.",
            "Make a thing of it.", [], ["The size of the thing.", "The thing that was made."],
        ),
        (
            "Make a thing of it.\n\n.. note:: This is a note on it.\n\n.. math::\n\n"
            "    This is not the text.\n",
            "Make a thing of it.", [], ["This is a note on it."],
        ),
        ("The table of it is:\n\n| the a | is b |\n| --- | --- |\n| of c | to d |", "", [], []),
        (
            "```\nThis is in the code.\n```\nThis is out of the code.",
            "This is out of the code.", [], [],
        ),
    ],
)  # fmt: skip
def test_markup_is_read_as_its_style_means_it(text, summary, description, rest):
    assert prose.sentences_of(text) == (summary, description, rest)


@pytest.mark.parametrize(
    "sentence",
    [
        "Too short here.",
        "without a capital letter it is no sentence.",
        "No full stop ends the sentence here",
        "The value of x = y + 1 is given.",
        "The set {a, b} is the result of it.",
        "See https://example.org for the rest of it.",
        "Alpha beta gamma delta epsilon zeta.",
        "The n_a n_b n_c x_1 x_2 of it.",
        "The (unbalanced is not the right way.",
    ],
)
def test_what_is_no_english_sentence_is_left_out(sentence):
    assert not prose.is_english(sentence)


@pytest.mark.slow
def test_the_whole_corpus_is_large_and_fast_the_second_time(cache):
    corpus = docstring_corpus(cache=cache)
    started = time.process_time()
    again = docstring_corpus(cache=cache)
    assert time.process_time() - started < 5
    assert again.texts == corpus.texts
    assert len(corpus) > 50_000
    assert {"stdlib", "numpy", "torch"} <= set(corpus.report.files)
    assert len(docstring_pairs(cache=cache)[0]) > 1500
