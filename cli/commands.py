"""How every command is read."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup, TyperOption


class Commands(TyperGroup):
    """A group whose commands refuse an option that is given twice and takes one value: the first would be lost."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command's name, itself, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        given = rest[: rest.index("--")] if "--" in rest else rest
        for option in command.params if command is not None else ():
            if not isinstance(option, TyperOption) or option.multiple or option.is_flag:
                continue
            if sum(text == own or text.startswith(f"{own}=") for text in given for own in option.opts) > 1:
                raise typer.BadParameter(f"{option.opts[0]} is given twice, and takes one value")
        return name, command, rest
