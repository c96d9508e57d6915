"""What is an address, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_cls import AsyncClient, Client
from keras_cls.client.addresses import parse_addresses
from keras_cls.errors import ConfigError

GOOD = [
    *("localhost:8500", "10.0.0.1:1", "my_host.example:65535", "[::1]:8500", "[fe80::1%lo]:1"),
    *("dns:///localhost:8500", "dns://8.8.8.8/host:1", "unix:/tmp/x", "unix:///tmp/x"),
]
BAD = [
    *("http://localhost:8500", "localhost", "localhost:", ":8500", "", "localhost:99999"),
    *("localhost:0", "localhost:http", "::1:8500", "[::1]", "[::1:8500", "a b:8500"),
    *("localhost:8500/", "dns:///localhost", "unix:", "localhost:٨", None, 8500),
    *([], (), {}, b"localhost:8500"),
]

addresses = st.sampled_from(GOOD)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("address", BAD, ids=repr)
def test_addresses_that_make_no_sense(kind, address):
    with pytest.raises(ConfigError, match="HOST:PORT, such as localhost:8500") as caught:
        kind(address, model="m")
    assert repr(address) in str(caught.value)


@pytest.mark.parametrize("address", GOOD)
def test_addresses(address):
    assert parse_addresses(address) == (address,)
    Client(address, model="m").close()


def test_what_a_client_says_of_its_addresses():
    with Client(["localhost:1", "localhost:2"], model="m") as client:
        assert client.address == "localhost:1,localhost:2"
    assert AsyncClient(" localhost:1 , localhost:2", model="m").address == client.address


@given(st.lists(addresses, min_size=1, max_size=6), st.sampled_from([",", ", ", " ,"]))
def test_a_list_and_a_string_mean_the_same(found, comma):
    expected = tuple(found)
    assert parse_addresses(found) == parse_addresses(expected) == expected
    assert parse_addresses(comma.join(found)) == expected


@given(
    st.lists(addresses, max_size=3),
    st.sampled_from([bad for bad in BAD if isinstance(bad, str)]),
    st.lists(addresses, min_size=1, max_size=3),
)
def test_the_bad_one_of_several_is_named(before, bad, after):
    several = [*before, bad, *after]
    for given_as in (several, ",".join(several)):
        with pytest.raises(ConfigError) as caught:
            parse_addresses(given_as)
        assert f"this is {bad!r}, in {given_as!r}" in str(caught.value)


@given(st.text(max_size=40) | st.lists(st.text(max_size=15) | st.integers(), max_size=3))
def test_anything_is_addresses_or_refused(found):
    try:
        parsed = parse_addresses(found)
    except ConfigError:
        return
    assert parsed
    for address in parsed:
        assert address.startswith("unix") or 0 < int(address.rpartition(":")[2]) < 65536
        assert parse_addresses(address) == (address,)


@given(
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True),
    st.integers(-1, 70_000),
)
def test_ports(host, port):
    address = f"{host}:{port}"
    if 0 < port <= 65535:
        assert parse_addresses(address) == (address,)
    else:
        with pytest.raises(ConfigError):
            parse_addresses(address)
