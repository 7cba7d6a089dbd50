"""METHODS.md says what the code says: names, papers, defaults, kinds of data and commands."""

import ast
import inspect
import math
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from unlabel.modalities import ENCODERS, MODALITIES
from unlabel.objectives import CATALOGUE
from unlabel.training.pretraining import why_not

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "METHODS.md").read_text(encoding="utf-8")
COLUMNS = [
    "name",
    "paper",
    "our defaults",
    "the paper's",
    "why they differ",
    "runs on",
    "a command",
]


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def read_rows():
    """Each row as a dictionary by column, in the order of the page."""
    tables = [line for line in PAGE.splitlines() if line.startswith("| ")]
    return [dict(zip(COLUMNS, cells(x), strict=True)) for x in tables if cells(x) != COLUMNS]


ROWS = read_rows()


def defaults(method):
    """Each argument's default; `**kwargs` are those of the class above."""
    found = {}
    for cls in method.__mro__:
        if "__init__" not in vars(cls):
            continue
        takes = inspect.signature(cls.__init__).parameters.values()
        for p in takes:
            if p.kind is p.KEYWORD_ONLY:
                found.setdefault(p.name, p.default)
        if not any(p.kind is p.VAR_KEYWORD for p in takes):
            break
    return found


def value(text):
    """What is written, as Python reads it; a bare word is a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def same(a, b):
    """Equal, numbers to the digits that the page has."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-3)
    return type(a) is type(b) and a == b


by_name = pytest.mark.parametrize("row", ROWS, ids=[row["name"].strip("`") for row in ROWS])


def test_every_method_has_one_row_and_every_row_a_method():
    assert sorted(row["name"] for row in ROWS) == sorted(f"`{name}`" for name in CATALOGUE)


@by_name
def test_a_row_says_what_the_class_says(row):
    method = CATALOGUE[row["name"].strip("`")]
    assert row["paper"] == method.paper
    assert all(row.values()), "an empty cell: write -"
    said = re.findall(r"`(\w+)=([^`]+)`", row["our defaults"])
    own = defaults(method)
    assert said or not own
    assert row["our defaults"] == (", ".join(f"`{k}={v}`" for k, v in said) or "-")
    for key, text in said:
        assert key in own, f"{method.__name__} has no {key}"
        assert same(value(text), own[key]), f"{key} is {own[key]!r}"


@by_name
def test_a_row_runs_where_the_code_runs_it(row):
    objective = CATALOGUE[row["name"].strip("`")]()
    kinds = [kind for kind, encoder in ENCODERS.items() if not why_not(objective, encoder)]
    assert row["runs on"] == ("all" if kinds == list(MODALITIES) else ", ".join(kinds))


@by_name
def test_a_command_trains_its_own_method_on_a_kind_that_it_runs_on(row):
    name = row["name"].strip("`")
    words = shlex.split(row["a command"].strip("`"))
    assert words[:2] == ["unlabel", "train"]
    given = {"--modality": "text", **dict(pairwise(words))}
    if words[2].startswith("recipes/"):
        recipe = yaml.safe_load((ROOT / words[2]).read_text(encoding="utf-8"))
        path = recipe["objective"]["class_path"]
        assert path == f"unlabel.objectives.{CATALOGUE[name].__name__}"
        given["--modality"] = recipe.get("modality", "text")
    else:
        assert given["--objective"] == name
    assert not why_not(CATALOGUE[name](), ENCODERS[given["--modality"]])


def test_the_readme_names_every_method_in_its_table_of_families():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| family |")[2].partition("\n\n")[0]
    families = [cells(line)[1] for line in table.splitlines()[2:]]
    assert set(re.findall(r"`(\w+)`", " ".join(families))) == set(CATALOGUE)


def test_the_head_names_kinds_of_data_and_their_usual_views():
    head = " ".join(PAGE.split("\n## ")[0].split())
    assert f"all is {', '.join(MODALITIES)}." in head
    assert ", ".join(f"{kind} `{encoder.usual}`" for kind, encoder in MODALITIES.items()) in head
