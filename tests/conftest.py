"""What every test needs: a quiet TensorFlow under Keras, and the public data where it is."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from keras_cls.processor import prefer_onednn

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
prefer_onednn()  # as the package's first use does

settings.register_profile("unhurried", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The public images: KERAS_CLS_DATA, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("KERAS_CLS_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no public data in {folder} (KERAS_CLS_DATA names another folder)")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few but long tests first: at the end, one would run while the other cores idle."""
    items.sort(key=lambda item: item.path.parent.name != "training")
