"""Settings of a program: one TOML file, and one rule for the environment, checked before anything starts.

The rule: any field can be given as CXP2P_<PROGRAM>_<SECTION>__<FIELD>, in capitals; lists are JSON. The environment
wins over the file.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as SourceError,
)

from cxp2p.errors import SettingsError
from cxp2p.paths import default_config_path

S = TypeVar("S", bound=BaseModel)


def load_settings(kind: type[S], program: str, path: Path, *, required: bool) -> S:
    """The settings in `path`, overridden by the environment. Without a file, and not `required`, the defaults.

    Raises SettingsError, which names the field, what was expected, and where it was set.
    """
    if not path.exists() and required:
        raise SettingsError(f"there is no file {path}; `cxp2p {program} init` writes one")
    prefix = f"CXP2P_{program.upper()}_"
    _refuse_unknown(kind, prefix, os.environ)

    def sources(
        cls: type[Any], _: type[BaseSettings], /, **__: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        environment = EnvSettingsSource(cls, env_prefix=prefix, env_nested_delimiter="__")
        return environment, TomlConfigSettingsSource(cls, path)

    loader = type(
        kind.__name__,
        (kind, BaseSettings),
        {
            "__module__": kind.__module__,
            "model_config": SettingsConfigDict(extra="forbid", frozen=True, nested_model_default_partial_update=True),
            "settings_customise_sources": classmethod(sources),
        },
    )
    try:
        loaded: S = loader()
    except ValidationError as error:
        raise SettingsError(_explain(error, prefix, path)) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    except SourceError as error:
        raise SettingsError(
            f"the environment: {error.__cause__ or error}; lists and sections are given as JSON"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    return loaded


def _refuse_unknown(kind: type[BaseModel], prefix: str, environment: Mapping[str, str]) -> None:
    """A misspelt variable that did nothing would be looked for a long time."""
    for name in environment:
        if name.startswith(prefix):
            field = name.removeprefix(prefix).lower().split("__")[0]
            if field not in kind.model_fields:
                raise SettingsError(f"{name}: there is no setting {field!r}; known are {', '.join(kind.model_fields)}")


def _explain(error: ValidationError, prefix: str, path: Path) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        where = ".".join(str(part) for part in fault["loc"])
        variable = prefix + "__".join(str(part).upper() for part in fault["loc"] if not isinstance(part, int))
        given = fault["input"]
        shown = "" if isinstance(given, (dict, BaseModel)) else f", not {str(given)[:80]!r}"
        source = variable if variable in os.environ else str(path)
        lines.append(f"{where}: {fault['msg']}{shown} (in {source})")
    return "; ".join(lines)


def write_commented(kind: type[BaseModel], program: str, path: Path | None, *, force: bool) -> Path:
    """Writes a commented settings file to `path`, or where the program looks for it. Raises SettingsError."""
    path = path or default_config_path(program)
    if path.exists() and not force:
        raise SettingsError(f"{path} is there already; --force overwrites it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render_commented(kind, program))
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None
    return path


def render_commented(kind: type[BaseModel], program: str) -> str:
    """A TOML file with every setting at its default, commented out, and what it is for."""
    lines = [
        f"# Settings of `cxp2p {program}`. Everything has a default: uncomment what you want to change.",
        f"# A field can also be set by the environment: CXP2P_{program.upper()}_<SECTION>__<FIELD>.",
        "",
    ]
    sections = []
    for name, field in kind.model_fields.items():
        inner = _model_in(field)
        if inner is None:
            lines += _render_field(name, field)
        else:
            sections += _render_section(name, field, inner)
    return "\n".join([*lines, *sections]).rstrip() + "\n"


def _render_section(name: str, field: FieldInfo, inner: type[BaseModel]) -> list[str]:
    default = field.get_default(call_default_factory=True, validated_data={})
    many = isinstance(default, tuple)
    shown = default[0] if many and default else default
    lines = [f"# {field.description}", f"[[{name}]]" if many else f"[{name}]"]
    return [*lines, *_render_fields(inner, shown), ""]


def _render_fields(kind: type[BaseModel], shown: object, before: str = "") -> list[str]:
    """The fields of a section; those of a model within it by dotted keys, as `tuning.batch`."""
    lines: list[str] = []
    for name, field in kind.model_fields.items():
        value = getattr(shown, name) if isinstance(shown, BaseModel) else None
        inner = _model_in(field)
        if inner is not None:
            lines += _render_fields(inner, value, f"{before}{name}.")
        else:
            lines += _render_field(before + name, field, value, set_it=field.is_required())
    return lines


def _render_field(name: str, field: FieldInfo, value: object = None, *, set_it: bool = False) -> list[str]:
    if value is None and not field.is_required():
        value = field.get_default(call_default_factory=True, validated_data={})
    mark = "" if set_it else "# "
    shown = f"{mark}{name} = {_toml(value)}" if value is not None else f"# {name} ="
    return [f"# {field.description}", shown, ""]


def _model_in(field: FieldInfo) -> type[BaseModel] | None:
    """The settings model that a field holds, alone or in a tuple."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _toml(value: Any) -> str:
    """A default as TOML; JSON's notation is TOML's for the kinds of value that settings have."""
    if isinstance(value, (Path, SecretStr)):
        return json.dumps(str(value))
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> object:
    """What JSON does not know: sets are lists, and the rest is text, such as a network or a URL."""
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
