"""A spec's options are read by type, and what is misspelt is refused."""

import pytest

from spam_cvat.errors import InputError
from spam_cvat.specs import Spec


def test_a_spec_is_taken_apart():
    spec = Spec.parse("onnx:/nets/a b.onnx?classes=person, car&tiles=2x1&threshold=0.05&mean=1,2,3")
    assert (spec.kind, spec.target) == ("onnx", "/nets/a b.onnx")
    assert spec.words("classes") == ("person", "car")
    assert spec.size("tiles") == (2, 1)
    assert spec.number("threshold", 0.5) == 0.05
    assert spec.numbers("mean", 3) == (1.0, 2.0, 3.0)
    spec.finish()


def test_an_address_keeps_its_port_and_path():
    spec = Spec.parse("nuclio:http://host:8070/name?timeout=5")
    assert (spec.kind, spec.target, spec.options) == ("nuclio", "http://host:8070/name", {"timeout": "5"})


def test_what_is_not_given_has_its_default():
    spec = Spec.parse("hog")
    assert (spec.target, spec.word("device", "auto"), spec.words("classes")) == ("", "auto", ())
    assert (spec.number("nms", 0.5), spec.size("tiles"), spec.numbers("mean", 3)) == (0.5, None, None)


@pytest.mark.parametrize("text", ["hog?scale", "hog?scale=", "hog?scale=1&scale=2"])
def test_malformed_options_are_refused(text):
    with pytest.raises(InputError, match="name=value"):
        Spec.parse(text)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda spec: spec.number("x", 0), "x is a number"),
        (lambda spec: spec.numbers("x", 1), "x holds numbers"),
        (lambda spec: spec.size("x"), "WIDTHxHEIGHT"),
        (lambda spec: spec.word("x", "", ("a", "b")), "one of a, b"),
        (lambda spec: spec.finish(), "unknown option x"),
    ],
)
def test_a_bad_value_is_named_with_its_spec(read, words):
    with pytest.raises(InputError, match=words) as caught:
        read(Spec.parse("kind:target?x=many"))
    assert "kind:target?x=many" in str(caught.value)


@pytest.mark.parametrize("text", ["-0.1", "1.5", "nan", "inf"])
def test_a_number_outside_its_range_is_refused(text):
    with pytest.raises(InputError, match=r"lies in 0\.\.1"):
        Spec.parse(f"hog?threshold={text}").number("threshold", 0.5)


@pytest.mark.parametrize("text", ["2", "0x1", "2x", "axb", "1x2x3", "-1x2"])
def test_a_bad_size_is_refused(text):
    with pytest.raises(InputError, match="WIDTHxHEIGHT"):
        Spec.parse(f"onnx:f?tiles={text}").size("tiles")


def test_the_wrong_count_of_numbers_is_refused():
    with pytest.raises(InputError, match="holds 3 numbers, not 2"):
        Spec.parse("onnx:f?mean=1,2").numbers("mean", 3)
