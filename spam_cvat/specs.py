"""Specs: how a user names a detector or an embedder on one line, ``kind:target?option=value&option=value``.

In: the text of a command-line option or a configuration. Out: its parts, with options read by type and unknown ones
refused, so that a misspelt option is not silently ignored.
"""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from spam_cvat.errors import InputError


@dataclass
class Spec:
    """One spec; reading an option takes it out, and :meth:`finish` refuses what nobody took.

    Attributes:
        text: the spec as given, for messages.
        kind: what stands before the first colon.
        target: a file or an address; empty where there is none.
        options: what stands behind the question mark.
    """

    text: str
    kind: str
    target: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Take a spec apart.

        >>> spec = Spec.parse("onnx:nets/yolox.onnx?classes=person,car&threshold=0.05")
        >>> spec.kind, spec.target, spec.words("classes"), spec.number("threshold", 0.1)
        ('onnx', 'nets/yolox.onnx', ('person', 'car'), 0.05)

        Raises:
            InputError: an option is given twice or has no value.
        """
        head, _, query = text.strip().partition("?")
        kind, _, target = head.partition(":")
        pairs = parse_qsl(query, keep_blank_values=True)
        options = dict(pairs)
        if len(options) < len(pairs) or not all(options.values()) or (query and not pairs):
            raise InputError(f"{text!r}: write options as name=value, each once, joined by &")
        return cls(text, kind, target, options)

    def word(self, name: str, default: str = "", among: tuple[str, ...] = ()) -> str:
        """An option as text. Raises InputError where it is not one of the values in ``among``."""
        value = self.options.pop(name, default)
        if among and value not in among:
            raise InputError(f"{self.text!r}: {name} is one of {', '.join(among)}, not {value!r}")
        return value

    def words(self, name: str) -> tuple[str, ...]:
        """An option as a list of words parted by commas; empty where it is not given."""
        return tuple(part.strip() for part in self.options.pop(name, "").split(",") if part.strip())

    def number(self, name: str, default: float, low: float = 0.0, high: float = 1.0) -> float:
        """An option as a number. Raises InputError where it is none, or outside [low, high]."""
        text = self.options.pop(name, None)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError as error:
            raise InputError(f"{self.text!r}: {name} is a number, not {text!r}") from error
        if not low <= value <= high:
            raise InputError(f"{self.text!r}: {name} lies in {low:g}..{high:g}, not {value:g}")
        return value

    def numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        """An option as so many numbers parted by commas; None where it is not given. Raises InputError otherwise."""
        parts = self.words(name)
        if not parts:
            return None
        try:
            values = tuple(float(part) for part in parts)
        except ValueError as error:
            raise InputError(f"{self.text!r}: {name} holds numbers, not {','.join(parts)!r}") from error
        if len(values) != count:
            raise InputError(f"{self.text!r}: {name} holds {count} numbers, not {len(values)}")
        return values

    def size(self, name: str) -> tuple[int, int] | None:
        """An option like ``640x384`` (width x height, or columns x rows); None where it is not given."""
        text = self.options.pop(name, None)
        if text is None:
            return None
        parts = text.lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() and 0 < int(part) < 100_000 for part in parts):
            raise InputError(f"{self.text!r}: {name} is written WIDTHxHEIGHT, for example 2x1, not {text!r}")
        return int(parts[0]), int(parts[1])

    def finish(self) -> None:
        """Refuse options that nobody took, with an InputError."""
        if self.options:
            raise InputError(f"{self.text!r}: unknown option {', '.join(sorted(self.options))}")
