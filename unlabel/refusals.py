"""What is wrong with a command line, in one sentence, and what was probably meant."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pydoc import locate
from typing import Any

Commands = Mapping[str, Any]  # functions by name, or commands of their own

_UNION = "Does not validate against any of the Union subtypes"
_KEY = re.compile(r'\s*Parser key "([\w.]+)":\s+(.*)', re.DOTALL)
_OF_CLASS = re.compile(r"\s*Problem with given class_path '([\w.]+)':\s+(.*)", re.DOTALL)
_EXPECTED = re.compile(r"\s*Expected an? (.+?)(?:\. Got value: (.*))?$", re.DOTALL)


def refusal(error: str, words: Sequence[str], commands: Commands) -> str:
    """An error of the parser of the command line as one sentence.

    Args:
        error: what the parser says.
        words: of the command line.
        commands: all there are.
    """
    name, function = _command(words, commands)
    there = [c for c in function if c != "_help"] if isinstance(function, Mapping) else []
    if found := re.match(r"argument .*subcommand: invalid choice: '(.*?)' ", error):
        return f"No command '{found[1]}'{meant(found[1], there)}; there are {', '.join(there)}."
    if re.match(r'expected ".*subcommand" to be one of', error):
        return f"`{name}` wants a command: {', '.join(there)}; `{name} --help` says what each does."
    if found := re.match(r"unrecognized arguments: (\S+)", error):
        return _unknown(found[1], name, function)
    if found := re.match(r"the following arguments are required: (.*)", error):
        wanted = [_shown(key.split(".")[-1], function) for key in found[1].split(", ")]
        return f"`{name}` wants {' and '.join(wanted)}; see `{name} --help`."
    if found := re.match(r'Parser key "config":\s+File does not exist: \'(.*)\'', error):
        return f"{found[1]}: there is no such recipe."
    return " ".join(reason(error).split())


def reason(error: str) -> str:
    """What is wrong, out of jsonargparse's list of all that a value might have been."""
    key, of, value, path = "", "", "", ""
    while True:
        if found := _KEY.match(error):
            key, error = found.groups()
        elif found := _OF_CLASS.match(error):
            path, error = found.groups()
            of = f" of {path.rpartition('.')[2]}"
        elif _UNION in error:
            tried, _, value = error.partition("Errors:")[2].rpartition("Given value:")
            error = _likeliest(tried.rpartition("Given value type:")[0])
        else:
            break
    if found := re.match(r"Option '(\w+)' is not accepted", error):
        near = meant(found[1], options_of(locate(path)))
        return f"There is no option '{found[1]}'{of}{near}."
    if found := _EXPECTED.match(error):
        came = (found[2] or value).strip()
        return f"{key}{of} is {_kind(found[1])}, but {came} came."
    return error


def _likeliest(tried: str) -> str:
    """Of what a value was tried as, what says most: not that it is no string, or not left out."""
    dash = re.match(r"\n +- ", tried)
    parts = [p.strip() for p in tried.split(dash[0])] if dash else [tried.strip()]
    parts = [p for p in parts if p and p != "Expected a <class 'NoneType'>"]
    told = [p for p in parts if not p.startswith("Expected a <class ")]
    return " ".join(told) or parts[0] if parts else ""


def meant(word: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)`, or nothing where none is near."""
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def options_of(thing: Any) -> list[str]:
    """Names of the arguments of a function or class; `**kwargs` are those of the class above."""
    if not inspect.isclass(thing):
        return list(inspect.signature(thing).parameters) if callable(thing) else []
    found: dict[str, None] = {}
    for cls in thing.__mro__:
        if "__init__" in vars(cls):
            takes = inspect.signature(cls.__init__).parameters.values()
            named = (p for p in takes if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
            found |= dict.fromkeys(p.name for p in named if p.name != "self")
            if not any(p.kind is p.VAR_KEYWORD for p in takes):
                break
    return list(found)


def _command(words: Sequence[str], commands: Commands) -> tuple[str, Any]:
    """The command that the words begin with, as it is written, and its function or its own."""
    name, found = "unlabel", commands
    for word in words:
        if not isinstance(found, Mapping) or word not in found:
            break
        name, found = f"{name} {word}", found[word]
    return name, found


def _unknown(word: str, name: str, function: Callable[..., Any] | Commands) -> str:
    if not word.startswith("-"):
        return (
            f"`{name}` has no place for '{word}': name the option it is for, see `{name} --help`."
        )
    word = word.partition("=")[0]
    head, dot, rest = word.lstrip("-").partition(".")
    near = meant(f"--{head}", [f"--{option}" for option in options_of(function)])
    near = near.replace("?)", f"{dot}{rest}?)")
    return f"`{name}` has no option {word}{near}; `{name} --help` lists all."


def _shown(key: str, function: Any) -> str:
    """An argument as it is written: a bare word where its place tells it, else an option."""
    takes = inspect.signature(function).parameters.get(key)
    is_option = takes is not None and takes.kind is takes.KEYWORD_ONLY
    return f"--{key}" if is_option else f"a {key.upper()}"


def _kind(kind: str) -> str:
    if found := re.match(r"typing\.Literal\[(.*)\]", kind):
        return f"one of {found[1]}"
    named = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    return _KINDS.get(named, named)


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list, such as [a, b]",
    "dict": "a mapping, such as {a: 1}",
}


__all__ = ["meant", "options_of", "reason", "refusal"]
