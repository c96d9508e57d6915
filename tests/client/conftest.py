"""A server of the test model, and a client of each kind."""

import pytest
from serving_models import save_test_model

from keras_cls import Client
from keras_cls.server import ModelServer


@pytest.fixture(scope="session")
def base_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "shades"
    save_test_model(folder / "3")
    return folder


@pytest.fixture(scope="session")
def server(base_path):
    with ModelServer(base_path, host="127.0.0.1", port=0) as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.address, model="shades") as connected:
        yield connected
