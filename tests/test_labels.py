import numpy as np
import pytest

from keras_cls.errors import ConfigError, DataError
from keras_cls.labels import checked_labels, checked_name, printable


def test_names_keep_their_order():
    assert checked_labels(["dog", "cat"]) == ("dog", "cat")
    assert checked_labels(np.array(["dog", "cat"])) == ("dog", "cat")
    assert all(type(name) is str for name in checked_labels(np.array(["dog", "cat"])))


def test_names_take_unicodes_composed_form():
    assert checked_labels(["cafe\u0301"]) == ("caf\u00e9",)
    with pytest.raises(ConfigError, match="'caf\u00e9' stands there twice"):
        checked_labels(["cafe\u0301", "caf\u00e9"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("ab", "must be a list of names"),
        ([], "must be a list of names"),
        (np.array([]), "must be a list of names"),
        (None, "must be a list of names"),
        ({"a", "b"}, "must be a list of names"),
        ({"a": 1}, "must be a list of names"),
        ([1, 2], "entry 0: the class name must be text, found 1"),
        (["a", None], "entry 1: the class name must be text"),
        (["a", " "], "entry 1: the class name is empty"),
        (["a", "b", "a"], "'a' stands there twice"),
        (["a\n"], r"entry 0: the class name 'a\\n' is not valid text"),
        (["\udcff"], r"entry 0: the class name '\\udcff' is not valid text"),
    ],
)
def test_what_is_refused(labels, message):
    with pytest.raises(ConfigError, match=f"^the classes.*{message}"):
        checked_labels(labels, "the classes")


def test_the_kind_of_error_is_the_callers():
    with pytest.raises(DataError, match="row 3: the class name is empty"):
        checked_name("", "row 3", DataError)


def test_printable():
    assert printable("K\u00e4tzchen\x07\udcff") == "K\u00e4tzchen\\x07\\udcff"
