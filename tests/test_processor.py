"""What TensorFlow is asked for before it is loaded."""

import os
import subprocess
import sys

import pytest

from keras_cls import processor

SWITCH = "TF_ENABLE_ONEDNN_OPTS"


@pytest.fixture
def before_tensorflow(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setenv(SWITCH, "")  # so that it is put back as it was
    monkeypatch.delenv(SWITCH)


def test_onednn_where_it_is_faster(before_tensorflow, monkeypatch):
    monkeypatch.setattr(processor, "cpu_flags", lambda: {"avx", "avx2", "fma"})
    processor.prefer_onednn()
    assert os.environ.pop(SWITCH) == "1"


def test_neither_on_other_processors_nor_where_something_was_said(before_tensorflow, monkeypatch):
    monkeypatch.setattr(processor, "cpu_flags", lambda: {"asimd"})
    processor.prefer_onednn()
    assert SWITCH not in os.environ
    monkeypatch.setattr(processor, "cpu_flags", lambda: {"avx2"})
    monkeypatch.setenv(SWITCH, "0")
    processor.prefer_onednn()
    assert os.environ[SWITCH] == "0"


@pytest.mark.parametrize("use", ["keras_cls.train", "from keras_cls.training import train"])
def test_it_is_said_on_first_use_and_not_on_import(use):
    code = (
        "import os, keras_cls; from keras_cls.processor import cpu_flags; "
        "keras_cls.Client; keras_cls.Preprocessing; "
        f"print(os.environ.get('{SWITCH}')); {use}; "
        f"print(os.environ.get('{SWITCH}') == ('1' if 'avx2' in cpu_flags() else None))"
    )
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.split() == ["None", "True"]
