"""Certificates of an authority of our own: of the server alone, and of both."""

import asyncio
import json

import grpc
import pytest
from certificates import make_certificates
from shades import best, encoded

from keras_cls import AsyncClient, Client
from keras_cls.cli import main
from keras_cls.client.tls import read_credentials
from keras_cls.errors import ConfigError, ServingError
from keras_cls.server import ModelServer


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def tls_server(base_path, ours):
    credentials = ours.server_credentials()
    with ModelServer(base_path, host="127.0.0.1", port=0, credentials=credentials) as running:
        yield running


@pytest.fixture(scope="module")
def mutual_server(base_path, ours):
    credentials = ours.server_credentials(mutual=True)
    with ModelServer(base_path, host="127.0.0.1", port=0, credentials=credentials) as running:
        yield running


def answer(server, credentials):
    """What a blocking and an asyncio client are told of a dark image."""
    options = {"model": "shades", "retries": 0, "credentials": credentials}
    with Client(server.address, **options) as client:
        answers = client.classify(encoded(0))

    async def ask():
        async with AsyncClient(server.address, **options) as client:
            return await client.classify(encoded(0))

    assert asyncio.run(ask()) == answers
    return best(answers)


def is_refused(server, credentials):
    with pytest.raises(ServingError) as caught:
        answer(server, credentials)
    return caught.value.code == "UNAVAILABLE"


def test_the_server_shows_who_it_is(tls_server, ours, strangers):
    assert answer(tls_server, read_credentials(ours.authority.certificate)) == ["dark"]
    assert is_refused(tls_server, read_credentials(strangers.authority.certificate))
    assert is_refused(tls_server, grpc.ssl_channel_credentials())
    assert is_refused(tls_server, None)


def test_both_show_who_they_are(mutual_server, ours, strangers):
    def credentials(pair):
        return read_credentials(ours.authority.certificate, pair.certificate, pair.key)

    assert answer(mutual_server, credentials(ours.client)) == ["dark"]
    assert is_refused(mutual_server, read_credentials(ours.authority.certificate))
    assert is_refused(mutual_server, credentials(strangers.client))


def test_a_plain_server_is_not_taken_for_another(server, ours):
    assert is_refused(server, read_credentials(ours.authority.certificate))


def test_no_files_mean_plain_text():
    assert read_credentials() is None


def test_files_that_are_wrong_are_named(ours, strangers, tmp_path):
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    missing = tmp_path / "missing.pem"
    mine = ours.client
    for files, message in [
        ((missing,), r"missing\.pem: no such file"),
        ((tmp_path,), "is a directory"),
        ((junk,), r"junk\.pem: no certificates"),
        ((mine.key,), r"client\.key: no certificates"),
        ((None, mine.certificate, None), "give both or neither"),
        ((None, None, mine.key), "give both or neither"),
        ((None, mine.certificate, missing), r"missing\.pem: no such file"),
        ((None, mine.certificate, junk), r"client\.pem and .*junk\.pem must be"),
        ((None, mine.key, mine.certificate), "must be a certificate and its private key"),
        ((None, mine.certificate, strangers.client.key), "must be a certificate and its private"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_credentials(*files)


def command(capfd, *arguments):
    capfd.readouterr()
    code = main(["classify", *map(str, arguments), "--model", "shades"])
    return code, *capfd.readouterr()


def test_the_command(tls_server, mutual_server, ours, tmp_path, capfd):
    image = tmp_path / "dark.png"
    image.write_bytes(encoded(0))
    authority = ("--tls-ca", ours.authority.certificate)
    own = ("--tls-cert", ours.client.certificate, "--tls-key", ours.client.key)
    both = ("--address", tls_server.address, "--address", mutual_server.address)
    for addresses in (both, ("--address", f"{tls_server.address},{mutual_server.address}")):
        code, out, err = command(capfd, image, image, "--json", *addresses, *authority, *own)
        assert (code, err) == (0, "")
        assert [json.loads(line)["predictions"][0]["label"] for line in out.splitlines()] == [
            "dark",
            "dark",
        ]
    code, _, err = command(capfd, image, *both[:2], "--tls-ca", tmp_path / "missing.pem")
    assert (code, err) == (1, f"keras-cls: {tmp_path / 'missing.pem'}: no such file or directory\n")
    code, _, err = command(capfd, image, *both[:2], *authority, *own[:2])
    assert (code, err.count("\n")) == (1, 1)
    code, _, err = command(capfd, image, "--address", "nowhere")
    assert code == 1
    assert "HOST:PORT" in err
