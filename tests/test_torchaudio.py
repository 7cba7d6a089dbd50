"""torchaudio imports beside any torch, once unlabel is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unlabel import _torchaudio

EXTENSION = """
from torchaudio._internal.module_utils import is_module_available
from .utils import _load_lib
IS_THERE = {asks}
if IS_THERE:
    raise {fault}
"""


@pytest.fixture
def make_release(tmp_path):
    """Makes a folder with a torchaudio whose library does not load; gives its path."""

    def make(
        *,
        asks: str = "_load_lib('x')",
        load: str = "raise OSError('libtorch_cuda.so')",
        fault: str = "OSError('libtorch_cuda.so')",
        functional: str = "",
    ) -> Path:
        files = {
            "__init__.py": "from . import _extension",
            "_extension/__init__.py": EXTENSION.format(asks=asks, fault=fault),
            "_extension/utils.py": f"def _load_lib(name):\n    {load}",
            "_internal/__init__.py": "",
            "_internal/module_utils.py": "def is_module_available(name):\n    return True",
            "functional.py": functional,
            "transforms.py": "",
        }
        for name, text in files.items():
            path = tmp_path / "torchaudio" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def run(code: str, folder: Path | None = None) -> subprocess.CompletedProcess:
    root = str(Path(_torchaudio.__file__).parent.parent)
    paths = os.pathsep.join([*([str(folder)] if folder else []), root])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


RELEASES = {
    "missing CUDA library": {},
    "another CUDA than torch's": {
        "load": "return True",
        "fault": "RuntimeError('compiled with different CUDA versions')",
    },
    "asks for a module": {"asks": "is_module_available('x')"},
}


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_whose_library_does_not_load_imports_after_unlabel(make_release, name):
    folder = make_release(**RELEASES[name])
    assert run("import torchaudio", folder).returncode == 1
    done = run("import unlabel, torchaudio; print(torchaudio._extension.IS_THERE)", folder)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


def test_a_library_that_loads_is_left_alone(make_release):
    folder = make_release(asks="bool(_load_lib('x')) and not 1", load="return True")
    code = "import unlabel, torchaudio._extension.utils as u; assert u._load_lib('x') is True"
    assert run(code, folder).returncode == 0


def test_what_torchaudio_asks_is_as_before_afterwards(make_release):
    code = (
        "import unlabel, torchaudio._internal.module_utils as m;"
        "import torchaudio; assert m.is_module_available('x') is True"
    )
    done = run(code, make_release(asks="is_module_available('x')"))
    assert done.returncode == 0, done.stderr


def test_one_sentence_says_that_it_does_not_load_at_all(make_release):
    folder = make_release(functional="raise OSError('libc.so')")
    code = (
        "from unlabel._torchaudio import load_torchaudio\n"
        "try: load_torchaudio('Resampling')\n"
        "except ImportError as error: print(error)"
    )
    said = run(code, folder).stdout
    assert said.startswith("Resampling: torchaudio does not load beside torch ")
    assert "libc.so" in said and said.count("\n") == 1


def test_one_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(ImportError, match=r"Resampling: .* pip install 'unlabel\[audio\]'"):
        _torchaudio.load_torchaudio("Resampling")


def test_importing_unlabel_imports_no_torchaudio_and_installs_one_finder():
    code = (
        "import sys, unlabel; from unlabel._torchaudio import install; install();"
        "assert not {'torch', 'torchaudio', 'transformers'} & set(sys.modules);"
        "assert sum(type(f).__module__ == 'unlabel._torchaudio' for f in sys.meta_path) == 1"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


# -- the real one -------------------------------------------------------------------------------


def test_transforms_run_beside_this_torch():
    pytest.importorskip("torchaudio")
    import torch

    torchaudio = _torchaudio.load_torchaudio("Everything")
    wave = torch.sin(torch.arange(8000) * 2 * torch.pi * 1000 / 8000)[None]
    mel = torchaudio.transforms.MelSpectrogram(8000, n_fft=512, n_mels=32)(wave)[0].mean(1)
    hertz = torchaudio.functional.melscale_fbanks(257, 0.0, 4000.0, 32, 8000)
    assert mel.argmax() == hertz[1000 * 256 // 4000].argmax()
    up = torchaudio.functional.resample(wave, 8000, 16000)[0, 100:-100]
    expected = torch.sin(torch.arange(16000) * 2 * torch.pi * 1000 / 16000)[100:-100]
    torch.testing.assert_close(up, expected, atol=5e-3, rtol=0)
    ones = torch.ones(1, 32, 10)
    assert torchaudio.transforms.FrequencyMasking(32)(ones).shape == ones.shape


@pytest.mark.slow
def test_transformers_imports_after_unlabel_where_torchaudio_is_installed():
    pytest.importorskip("torchaudio")
    code = (
        "import unlabel; from transformers import ASTModel, Trainer; import sentence_transformers"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
