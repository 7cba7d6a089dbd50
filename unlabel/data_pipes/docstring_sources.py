"""Find the sources of installed packages and read their docstrings, importing nothing."""

import ast
import importlib.util
import inspect
import os
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

STDLIB = "stdlib"
# What unlabel itself depends on, directly or not, and what often lies beside it.
PACKAGES = (
    STDLIB, "PIL", "accelerate", "aiohttp", "attr", "cv2", "datasets", "dateutil", "einops",
    "filelock", "fsspec", "gensim", "h5py", "httpx", "huggingface_hub", "jinja2", "joblib",
    "jsonargparse", "kiwisolver", "librosa", "lightning", "matplotlib", "mpl_toolkits", "mpmath",
    "multiprocess", "networkx", "nltk", "numpy", "packaging", "pandas", "pip", "pluggy", "psutil",
    "pyarrow", "pydantic", "pygments", "pyparsing", "pytest", "requests", "rich", "safetensors",
    "scipy", "sentence_transformers", "setuptools", "skimage", "sklearn", "sktime", "spacy",
    "statsmodels", "sympy", "tokenizers", "torch", "torchaudio", "torchvision", "tqdm",
    "transformers", "typer", "urllib3", "xarray", "yaml",
)  # fmt: skip
_SKIPPED = {
    "test",
    "tests",
    "testing",
    "_vendor",
    "vendored",
    "site-packages",
    "dist-packages",
    "lib2to3",
}
_COPIES = ("test", "modular_")  # transformers generates its modeling files from modular ones
_ADDERS = {"add_newdoc", "add_docstr", "add_newdoc_for_scalar_type"}  # docstrings of C functions


def find_roots(packages: Sequence[str] | None) -> dict[str, Path]:
    """Package -> folder of its source, for those asked for or all known ones that are installed.

    Raises:
        ValueError: a package that was asked for is not installed.
    """
    roots: dict[str, Path] = {}
    for name in sorted(set(packages or PACKAGES)):
        if name == STDLIB:
            roots[name] = Path(sysconfig.get_path("stdlib"))
            continue
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec and spec.submodule_search_locations:
            roots[name] = Path(next(iter(spec.submodule_search_locations)))
        elif packages:
            raise ValueError(f"No package {name!r} is installed here; install it or leave it out.")
    return roots


def source_files(root: Path) -> list[Path]:
    """The Python files below a folder, sorted, without tests and copies of other packages."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in _SKIPPED and not f.startswith((".", "__"))]
        found += [
            Path(folder) / f for f in files if f.endswith(".py") and not f.startswith(_COPIES)
        ]
    return sorted(found)


def docstrings_of(file: Path) -> Iterator[tuple[str, str]]:
    """Qualified names and docstrings of one file, in the order of the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return
    if file.match("pydoc_data/topics.py"):
        yield from _topics(tree)
        return
    if text := ast.get_docstring(tree):
        yield "__doc__", text
    yield from _objects(tree, "")


def _objects(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if text := ast.get_docstring(child):
                yield prefix + child.name, text
            if isinstance(child, ast.ClassDef):
                yield from _objects(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.If, ast.Try, ast.ExceptHandler, ast.With)):
            yield from _objects(child, prefix)
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            yield from _added(child.value)


def _added(call: ast.Call) -> Iterator[tuple[str, str]]:
    """The docstring that a call such as `add_docstr(torch.abs, "...")` gives to a C function."""
    if getattr(call.func, "id", getattr(call.func, "attr", None)) not in _ADDERS:
        return
    strings = [
        n for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]
    strings.sort(key=lambda n: (n.lineno, n.col_offset))
    text = "".join(str(n.value) for n in strings if "\n" in str(n.value))
    names = [str(n.value) for n in strings if "\n" not in str(n.value) and n.value]
    target = call.args[0] if call.args else call
    name = ".".join(names) if isinstance(target, ast.Constant) else ast.unparse(target)
    yield name, inspect.cleandoc(text)


def _topics(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Python's language reference, a dict of long strings."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from ast.literal_eval(node.value).items()
