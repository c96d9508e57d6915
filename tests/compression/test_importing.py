"""What importing the package costs, and what it leaves behind."""

import subprocess
import sys


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_settings_load_without_the_tools() -> None:
    code = (
        "import sys; from keras_cls.compression import Pruning; Pruning(0.5)\n"
        "heavy = ('tensorflow', 'keras', 'tf_keras', 'tensorflow_model_optimization')\n"
        "print([module for module in heavy if module in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_the_tools_leave_no_switch_in_the_environment() -> None:
    code = (
        "import os; from keras_cls.compression import prunable\n"
        "print('TF_USE_LEGACY_KERAS' in os.environ)"
    )
    assert run_python(code) == "False"


def test_without_the_tools_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['tf_keras'] = None\n"
        "import keras_cls.compression\n"
        "try: keras_cls.compression.twin_of\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    assert "pip install 'keras-cls[compress]'" in run_python(code)
