"""Sections that a recipe chooses by `type`: a built-in by its name, or the user's own class by its import path.

    AnyLoss = Annotated[InfoNCE | CoSENT | MarginMSE, Registry("loss", Loss)]

    loss: {type: infonce, temperature: 0.02}      # one of the union
    loss: {type: my_losses:Focal, gamma: 2}       # class Focal(Loss) in my_losses.py beside the recipe

A user's module is looked for where Python finds modules, then in the folder of the recipe and in the working
directory. `shipped()` lists the files from those two folders that were imported, for Ray to bring to every worker.
"""

import difflib
import importlib
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

OURS = frozenset({"pipeline", "training", "scripts", "tripletail", "tests"})  # installed or submitted with every job
Aliases = Mapping[str, Mapping[str, Any]]
_folders: list[str] = []


class Registry:
    """Annotation of a union of built-in classes that lets a recipe name a subclass of `base` by import path too.

    `kind` is what messages call one of them ("loss"). `aliases` are other names of built-ins, each with the settings
    that it stands for: {"mnrl": {"type": "infonce"}}; settings that the recipe gives win over those. Names are compared
    without case, underscores, hyphens and the kind at their end: MarginMSELoss is margin_mse.
    """

    def __init__(self, kind: str, base: type[BaseModel], aliases: Aliases | None = None) -> None:
        self.kind = kind
        self.base = base
        self.aliases = dict(aliases or {})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Schema of the union, tagged by `type`, with aliases and import paths resolved before it."""
        choices = {tag(item): handler.generate_schema(item) for item in _models(source)}
        settings = {self._plain(name): {"type": name} for name in choices}
        settings |= {self._plain(name): dict(item) for name, item in self.aliases.items() if item["type"] in choices}

        def validate(value: Any, union: core_schema.ValidatorFunctionWrapHandler) -> Any:
            return self._validate(value, union, list(choices), settings)

        return core_schema.no_info_wrap_validator_function(
            validate,
            core_schema.tagged_union_schema(choices, discriminator="type"),
            serialization=core_schema.simple_ser_schema("any"),  # by the class that it is, not by one of the union
        )

    def _validate(
        self,
        value: Any,
        union: core_schema.ValidatorFunctionWrapHandler,
        names: list[str],
        settings: dict[str, dict[str, Any]],
    ) -> Any:
        """The section that `value` describes; `settings` are those that each plain name stands for."""
        if isinstance(value, self.base) and tag(type(value)) not in names:
            return self._importable(value)
        name = value.get("type") if isinstance(value, dict) else None
        if not isinstance(name, str) or name in names:
            return union(value)
        if ":" in name:
            return self._own(load(name, self.kind, self.base), value)
        if self._plain(name) in settings:
            return union({**settings[self._plain(name)], **{key: item for key, item in value.items() if key != "type"}})
        aliases = sorted(name for name in self.aliases if self._plain(name) in settings)
        raise _error(
            f"no {self.kind} is called {name!r}{nearest(name, [*names, *aliases])}; choose from "
            f"{', '.join(sorted(names))}{_also(aliases)}, or name your own class as package.module:Class"
        )

    def _plain(self, name: str) -> str:
        """A name without case, punctuation and the kind at its end."""
        letters = "".join(letter for letter in name.lower() if letter.isalnum())
        return letters.removesuffix(self.kind.replace(" ", "")) or letters

    def _importable(self, value: BaseModel) -> BaseModel:
        """The value, whose class the workers of a job must be able to import by its path."""
        load(import_path(type(value)), self.kind, self.base)
        return value

    @staticmethod
    def _own(section: type[BaseModel], settings: dict[str, Any]) -> BaseModel:
        """An instance of a user's class; errors carry its import path where those of built-ins carry their name."""
        try:
            return section.model_validate(settings)
        except ValidationError as error:
            details = [
                InitErrorDetails(
                    type=item["type"] if "ctx" not in item or "error" not in item["ctx"] else _error(item["msg"]),
                    loc=(tag(section), *item["loc"]),
                    input=item["input"],
                    ctx=item.get("ctx", {}),
                )
                for item in error.errors()
            ]
            raise ValidationError.from_exception_data(error.title, details) from error


def _error(message: str) -> PydanticCustomError:
    return PydanticCustomError("plugin", "{message}", {"message": message})


def tag(section: type[BaseModel]) -> str:
    """The name by which recipes choose a class: the default of its `type`; empty where it has none."""
    return str(section.model_fields["type"].default) if "type" in section.model_fields else ""


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The classes of a union, those of unions inside it among them, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def import_path(section: type) -> str:
    """Where a class is defined, as a recipe names it: "package.module:Class"."""
    return f"{section.__module__}:{section.__qualname__}"


def look_in(folder: str) -> None:
    """Look for user's modules in a folder too, after all others; nothing is imported until a recipe names it."""
    folder = str(Path(folder).absolute())
    if folder not in _folders:
        _folders.append(folder)


def load(path: str, kind: str, base: type[BaseModel]) -> type[BaseModel]:
    """Import the class that "package.module:Class" names.

    Raises PydanticCustomError, which a job answers with one line, where there is no such module or class, where the
    module cannot be imported, or where the class is no subclass of `base` that can be used.
    """
    module_name, _, class_name = path.partition(":")
    module = _module(path, module_name)
    section = getattr(module, class_name, None)
    if section is None:
        classes = [name for name, item in vars(module).items() if isinstance(item, type) and issubclass(item, base)]
        raise _error(f"{module.__file__} has no class {class_name}{nearest(class_name, classes)}")
    if not (isinstance(section, type) and issubclass(section, base)):
        raise _error(f"{path} is not a subclass of {base.__module__}.{base.__qualname__}, as a {kind} must be")
    if tag(section) != import_path(section):
        raise _error(
            f"{path} is called {section.model_fields['type'].default!r} by its own `type`; write its name alone for a "
            "built-in, and leave `type` out of a class of your own"
        )
    if missing := sorted(section.__abstractmethods__):
        raise _error(f"{path} does not define {', '.join(missing)}, as a {kind} must")
    return section


def load_object(path: str, kind: str) -> Any:
    """Import whatever "package.module:name" names, such as a function.

    Raises PydanticCustomError where there is no such module or name, or where the module cannot be imported.
    """
    module_name, _, name = path.partition(":")
    module = _module(path, module_name)
    if not hasattr(module, name):
        names = [public for public in vars(module) if not public.startswith("_")]
        raise _error(f"{module.__file__} has no {kind} {name}{nearest(name, names)}")
    return getattr(module, name)


def _module(path: str, name: str) -> ModuleType:
    if name == "__main__":
        raise _error(f"{path}: workers cannot import what a script or notebook defines; put the class into a .py file")
    look_in(".")
    sys.path.extend(folder for folder in _folders if folder not in sys.path)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(path, name, error) from error
        raise _error(
            f"{path}: there is no module {error.name}, neither installed nor in {' or '.join(_folders)}"
        ) from error
    except Exception as error:
        raise _failed(path, name, error) from error


def _failed(path: str, name: str, error: Exception) -> PydanticCustomError:
    """The message of an import that failed, with the last line of the user's code that was reached."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    at = "" if "importlib" in last.filename else f" at {last.filename}:{last.lineno}"
    return _error(f"{path}: importing {name} failed{at}: {type(error).__name__}: {error}")


def _also(aliases: list[str]) -> str:
    return f" (also known as {', '.join(aliases)})" if aliases else ""


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean ...?` with the name that is written most like it, or nothing where none is near."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def shipped() -> list[str]:
    """Files and packages that were imported from the recipe's folder or the working directory, for `py_modules`.

    What a user's module imports from beside itself comes along. Installed modules do not: nodes have them.
    """
    paths: set[str] = set()
    for name in {name.partition(".")[0] for name in sys.modules} - OURS - {"__main__"}:
        module = sys.modules.get(name)
        locations = [*getattr(module, "__path__", [])] or [getattr(module, "__file__", None) or ""]
        paths.update(path for path in locations if str(Path(path).parent) in _folders)
    return sorted(paths)


def imported(path: str) -> type[BaseModel] | None:
    """The class that a recipe has named by an import path; None where `path` is something else."""
    module_name, colon, class_name = path.partition(":")
    section = getattr(sys.modules.get(module_name), class_name, None) if colon else None
    return section if isinstance(section, type) and issubclass(section, BaseModel) else None
