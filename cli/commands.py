"""How every command is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from functools import wraps
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperGroup, TyperOption

from cli.errors import user_errors
from cli.output import say
from factory.storage import PHOTOS_STORAGE, STORAGE, check_used

_OF_ALL_TENANTS: Final = ("serve",)
_MAKE_ROOTS: Final = ("run", "prepare", "create")  # `keys create`; to all others a root that is not there is a mistake
_OF_SERVERS: Final = ("--address", "--cors")  # options whose URL is no place of files
# an option, as word processors write two hyphens; and their quotes: begin -> end
_DASHED: Final = re.compile("(?:\u00a0+-|\u00a0*[\u2013\u2014\u2212])-?([a-z][a-z-]*)(?:=.*)?")
_AT_HOME: Final = re.compile("^(--[a-z-]+=|)~(?=/)")
_QUOTES: Final = {"\u201c": "\u201d", "\u201e": "\u201c", "\u2018": "\u2019", "\u201a": "\u2018"}
_TENANT: Final = "Work on this tenant's people alone: those of ROOT/tenants/NAME."


class Commands(TyperGroup):
    """A group whose commands refuse an option that is given twice and takes one value: the first would be lost.

    Each command with --root has --tenant, too, whoever wrote it: it sees a tenant's own root and nothing of others.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, command in self.commands.items():
            own = {param.name: param for param in getattr(command, "params", ())}
            if "root" in own and "tenant" not in own and name not in _OF_ALL_TENANTS and command.callback is not None:
                option = copy(own["root"])  # a text, as --root is
                option.name, option.opts, option.required, option.default = "tenant", ["--tenant"], False, None
                option.metavar, option.help = "NAME", _TENANT
                command.params.append(option)
                command.callback = _on_tenants_root(command.callback, made=name in _MAKE_ROOTS)
            if "root" in own and command.callback is not None:
                command.callback = _on_stores(command.callback)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`help COMMAND` is `COMMAND --help`; `--out=~/x`, which shells leave as it is, means the home folder. Raises
        BadParameter for what a word processor made of an option."""
        for place, word in enumerate(args):
            if dashed := _DASHED.fullmatch(word):
                raise typer.BadParameter(f"{word} begins as word processors write an option; type --{dashed[1]}")
            end = None if " " in word else _QUOTES.get(word[:1])
            if end and end not in word[1:] and any(other.endswith(end) for other in args[place:]):
                raise typer.BadParameter(
                    f"{word} begins with a word processor's quote, unknown to shells; type ' or \""
                )
        args = [_AT_HOME.sub(lambda found: found[1] + str(Path.home()), word) for word in args]
        parsed: list[str] = super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)
        return parsed

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command's name, itself, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        given = rest[: rest.index("--")] if "--" in rest else rest
        for option in command.params if command is not None else ():
            if not isinstance(option, TyperOption) or option.multiple or option.is_flag:
                continue
            if sum(text == own or text.startswith(f"{own}=") for text in given for own in option.opts) > 1:
                raise typer.BadParameter(f"{option.opts[0]} is given twice, and takes one value")
        if any(option.name == "photos" for option in getattr(command, "params", ())):
            _check_photos(given)
        for of, by in (("storage", STORAGE), ("photos_storage", PHOTOS_STORAGE)):
            if not ctx.params.get(of):
                continue
            with user_errors():
                used = check_used(ctx.params[of], _places(args), by)
            if not used and not any(word.startswith("--photos") for word in args):  # a list of photos may name s3://
                name_of = of.replace("_", "-")
                say(f"warning: nothing of this command is on a store, so nothing reads --{name_of}", error=True)
        return name, command, rest


def _check_photos(words: Sequence[str]) -> None:
    """Raises BadParameter where several places follow one --photos, as a shell makes of photos/*.jpg."""
    for before, one, other in zip(words, words[1:], words[2:], strict=False):
        if before == "--photos" and not one.startswith("-") and not other.startswith("-"):
            raise typer.BadParameter(
                f"--photos takes one place, and {other} follows it (a shell spreads photos/*.jpg so): give the folder, "
                "or --photos for each file"
            )


def _places(words: Sequence[str]) -> Iterator[str]:
    """What may be places among a command's words."""
    for before, word in zip(["", *words], words, strict=False):
        option, _, value = word.partition("=")
        if before not in _OF_SERVERS and option not in _OF_SERVERS:
            yield from (word, value)


def _on_tenants_root(command: Callable[..., Any], *, made: bool) -> Callable[..., Any]:
    @wraps(command)
    def on_root(*args: Any, root: str, tenant: str | None = None, **others: Any) -> Any:
        from factory.files import check_root, tenant_root

        try:
            own = tenant_root(root, tenant)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        if not made:
            with user_errors():
                check_root(own)
        return command(*args, root=own, **others)

    return on_root


def _on_stores(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def there(*args: Any, root: str, **others: Any) -> Any:
        from factory.files import tenant_root
        from factory.reach import check_stores

        own = root
        with suppress(ValueError):  # of a name that is none, which is told by the command
            own = tenant_root(root, others.get("tenant"))  # all that a tenant's credentials need reach
        with user_errors():
            check_stores([own, str(others.get("pack", ""))], tables=[own])
            check_stores(others.get("photos", ()), by=PHOTOS_STORAGE)
        return command(*args, root=root, **others)

    return there
