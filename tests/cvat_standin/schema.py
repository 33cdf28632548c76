"""Checks the stand-in's answers against a server's own OpenAPI file.

In: the file (``openapi-*.yml``) and each answer with its path and status. Out: what does not fit, in words. OpenAPI
3.0's ``nullable`` is translated to JSON Schema, and objects are closed: a field the server does not have shows too.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

Json = dict[str, Any]


class Schema:
    """The answers an OpenAPI file promises."""

    def __init__(self, path: Path) -> None:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self._components = {
            name: self._translated(schema) for name, schema in document["components"]["schemas"].items()
        }
        self._operations: list[tuple[re.Pattern[str], Json]] = []
        for template, operations in document["paths"].items():
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template.rstrip("/")))
            self._operations.append((re.compile(pattern + "/?$"), operations))
        # The literal path wins over one with a parameter: users/self over users/{id}.
        self._operations.sort(key=lambda item: item[0].pattern.count("(?P<"))
        self.validator = cache(self._validator)

    def _translated(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._translated(item) for item in node]
        if not isinstance(node, dict):
            return node
        made = {key: self._translated(value) for key, value in node.items() if key not in ("nullable", "example")}
        if "$ref" in made:
            made["$ref"] = made["$ref"].replace("#/components/schemas/", "#/$defs/")
        if "properties" in made and "additionalProperties" not in made:
            made["additionalProperties"] = False
        if node.get("nullable"):
            return {"anyOf": [made, {"type": "null"}]}
        return made

    def _validator(self, path: str, method: str, status: int) -> Draft202012Validator | None:
        for pattern, operations in self._operations:
            if pattern.match(path) and method.lower() in operations:
                answers = operations[method.lower()]["responses"]
                content = answers.get(str(status), {}).get("content", {})
                kinds = [value["schema"] for kind, value in content.items() if "json" in kind and "schema" in value]
                if not kinds:
                    return None
                return Draft202012Validator(self._translated(kinds[0]) | {"$defs": self._components})
        return None

    def promises(self, path: str, method: str) -> bool:
        """Whether the file has such an operation at all."""
        return any(p.match(path) and method.lower() in operations for p, operations in self._operations)

    def violations(self, path: str, method: str, status: int, answer: Any) -> list[str]:
        """What in an answer does not fit, one line each; empty where the file promises nothing for this status."""
        validator = self.validator(path, method, status)
        if validator is None:
            return []
        return [
            f"{method} {path} {status}: {error.json_path}: {error.message[:300]}"
            for error in validator.iter_errors(answer)
        ]
