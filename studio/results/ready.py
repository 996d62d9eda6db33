"""Can this pack be evaluated? Asked before anything is learned, as that takes most of the time."""

from __future__ import annotations

from collections.abc import Callable

from factory.errors import PackError
from factory.measure.perceptual import Inception, Lpips
from factory.pack import Pack
from factory.settings import evaluate_settings
from factory.supply.verify import missing_files
from studio.training.words import identity_map


def check(pack: Pack) -> None:
    """Raises PackError, in one line, naming all that the protocol will ask for and this pack does not have."""
    lacking = []
    config = evaluate_settings(pack)
    loads: list[Callable[[], object]] = [lambda: identity_map(pack)]
    loads += [Lpips] * (config.face_div == "lpips") + [Inception] * (config.fid == "inception")
    for load in loads:
        try:
            load()
        except PackError as error:
            lacking.append(str(error))
    if pack.clip is None or pack.faces.judge is None:
        lacking.append("pack.toml names no [clip], or no `judge` under [faces]")
    needed = [name for name in pack.parts() if not name.startswith("control.")]
    if incomplete := [name for name in needed if missing_files(pack, name)]:
        lacking.append(f"files of {', '.join(incomplete)} are missing, see `identity-factory packs verify {pack.name}`")
    if lacking:
        raise PackError(f"pack {pack.name!r} cannot be evaluated: {'; '.join(lacking)}")
