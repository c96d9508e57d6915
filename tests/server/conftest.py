"""A test model, a server on it, and TensorFlow Serving's own stubs to talk to it."""

import pytest
from serving_models import save_test_model, stubs_for

from keras_cls.server import ModelServer


@pytest.fixture(scope="session")
def base_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "shades"
    save_test_model(folder / "3")
    return folder


@pytest.fixture(scope="session")
def server(base_path):
    with ModelServer(base_path, host="127.0.0.1", port=0, rest_api_port=0) as running:
        yield running


@pytest.fixture(scope="session")
def stubs(server):
    found = stubs_for(server.address)
    yield found
    found.channel.close()
