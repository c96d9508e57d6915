import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_cls.errors import ConfigError, DataError
from keras_cls.labels import (
    CIFAR10,
    checked_labels,
    checked_name,
    class_names,
    imagenet_classes,
    match_labels,
    printable,
)

IMAGENET = class_names("imagenet")
WNIDS = tuple(each.wnid for each in imagenet_classes())
# Where the first word of WordNet is not enough.
TOLD_APART = {
    "n02012849": "crane (bird)",
    "n03126707": "crane (machine)",
    "n02113186": "Cardigan (dog)",
    "n02963159": "cardigan (garment)",
    "n03710637": "maillot (tights)",
    "n03710721": "maillot (bathing suit)",
}


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


def test_imagenets_classes_are_in_the_order_of_keras_and_torchvision():
    classes = imagenet_classes()
    assert len(classes) == 1000
    assert list(WNIDS) == sorted(set(WNIDS))
    assert (classes[0].wnid, classes[0].name) == ("n01440764", "tench")
    assert (classes[207].wnid, classes[207].name) == ("n02099601", "golden retriever")
    assert classes[999].wnid == "n15075141"
    assert classes[999].synonyms == ("toilet tissue", "toilet paper", "bathroom tissue")


def test_class_names_are_all_different_whatever_their_case():
    assert checked_labels(IMAGENET) == IMAGENET
    assert len({name.casefold() for name in IMAGENET}) == 1000
    assert {wnid: IMAGENET[WNIDS.index(wnid)] for wnid in TOLD_APART} == TOLD_APART
    assert class_names("cifar10") == CIFAR10
    assert CIFAR10[0] == "airplane" and CIFAR10[9] == "truck"
    with pytest.raises(ConfigError, match="expected one of 'imagenet', 'cifar10', found 'coco'"):
        class_names("coco")


def test_the_table_is_read_when_it_is_needed():
    code = (
        "import keras_cls.labels as labels\n"
        "assert labels.imagenet_classes.cache_info().currsize == 0\n"
        "labels.match_labels(['cat'], ['cat', 'dog'])\n"
        "assert labels.imagenet_classes.cache_info().currsize == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.data
def test_the_table_is_wordnets(data_dir):
    content = json.loads((data_dir / "wordnet" / "imagenet1k_wordnet.json").read_text())
    expected = [
        (row["wnid"], TOLD_APART.get(row["wnid"], row["lemmas"][0]), tuple(row["lemmas"]))
        for row in content["classes"]
    ]
    assert [(each.wnid, each.name, each.synonyms) for each in imagenet_classes()] == expected


@pytest.mark.data
def test_the_gallerys_labels_are_found(data_dir):
    with (data_dir / "gallery" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    indices = tuple(int(row["index"]) for row in rows)
    assert match_labels([row["wnid"] for row in rows], IMAGENET) == indices
    assert match_labels([row["name"] for row in rows], IMAGENET) == indices
    assert match_labels([row["name"] for row in rows], WNIDS) == indices


@pytest.mark.parametrize(
    ("found", "index"),
    [
        ("tench", 0),
        ("n01440764", 0),
        ("Tinca tinca", 0),
        ("tinca_tinca", 0),
        ("GOLDFISH", 1),
        ("great_white_shark", 2),
        ("partridge", 86),  # a word of the ruffed grouse too, but the partridge's name
        ("crayfish", 124),
        ("Cardigan", 264),
        ("cardigan", 474),
        ("crane_bird", 134),
        ("crane (machine)", 517),
        ("tank suit", 639),
        ("toilet paper", 999),
    ],
)
@pytest.mark.parametrize("labels", [IMAGENET, WNIDS])
def test_imagenets_classes_go_by_many_names(found, index, labels):
    assert match_labels([found], labels) == (index,)


def test_labels_match_themselves_first():
    assert match_labels(["crane", "panda"], ["panda", "crane", "n02012849"]) == (1, 0)
    assert match_labels(["b", "a"], ["a", "b", "c"]) == (1, 0)
    assert match_labels([], ["a"]) == ()


def test_a_subset_of_imagenet_matches_a_subset():
    # Imagenette's folders, and what people call its classes.
    wnids = ["n01440764", "n02102040", "n02979186", "n03000684"]
    names = ["cassette player", "tench", "English springer", "chain saw"]
    assert match_labels(wnids, names) == (1, 2, 0, 3)
    assert match_labels(names, wnids) == (2, 0, 1, 3)


@pytest.mark.parametrize(
    ("found", "labels", "message"),
    [
        (["cat"], ["bat", "dog"], "photos: 1 class not among the labels: 'cat'.*Nearest to 'cat'"),
        (["crane"], IMAGENET, r"'crane' may be 'crane \(bird\)' or 'crane \(machine\)'"),
        (["CARDIGAN"], IMAGENET, r"may be 'Cardigan \(dog\)' or 'cardigan \(garment\)'"),
        (["panda"], WNIDS, "'panda' may be 'lesser panda' or 'giant panda'"),
        (["n01440764"], ["dog", "cat"], "'n01440764' is 'tench'"),
        (["Cat"], ["cat", "dog"], "not among the labels: 'Cat'"),
        (["x", "y"], ["a"], "2 classes not among the labels: 'x', 'y'"),
        (["tench", "n01440764"], IMAGENET, "'tench', 'n01440764' are the same class, 'tench'"),
        (["tench"], ["n01440764", "Tinca tinca"], "not among the labels: 'tench'"),
    ],
)
def test_what_matches_nothing_is_named_with_the_nearest(found, labels, message):
    with pytest.raises(DataError, match=message):
        match_labels(found, labels, "photos")


@given(st.lists(st.text(min_size=1), unique=True), st.randoms())
def test_every_list_of_names_matches_its_own_order(names, random):
    labels = random.sample(names, len(names))
    assert [labels[place] for place in match_labels(names, labels)] == names


@given(st.text())
def test_any_name_is_matched_or_refused(name):
    try:
        (index,) = match_labels([name], IMAGENET)
    except DataError as error:
        assert "labels" in str(error)
    else:
        assert 0 <= index < 1000
