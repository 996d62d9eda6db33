"""Whether `quality` tells good identities from bad ones: held-out people learned from a good photo and from a spoiled
one (blurred, tiny, dark, half covered), and good words beside somebody else's photo.

    python -m studio.results.quality --out out/quality
What is in DIR is not done again. The medians of the good ones are what packs/studio/pack.toml has under [quality].
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import cv2
import numpy as np
from PIL import Image

from factory.config import PrepareConfig
from factory.draw.images import ImageGenerator
from factory.errors import PhotoRejected
from factory.faces.prepare import Preparer
from factory.ids import identity_id
from factory.learn.trainer import load_trainer
from factory.measure.formulas import Interval, bootstrap, roc_auc
from factory.measure.quality import ENOUGH, Scorer, probes
from factory.pack import load_pack
from factory.records import PreparedFace
from factory.settings import assess_settings, train_settings
from factory.store.queries import identities_by_id
from factory.store.rows import identity_row
from factory.store.tables import Store
from studio.results.protocol import FIRST_EVALUATED, PHOTO_PX
from studio.training.build import PACK
from studio.training.dataset import held_out
from studio.world.render import render
from studio.world.scenes import sample_scene

NUM_PEOPLE: Final = 24
_AT_ONCE: Final = 6  # people who are learned, drawn and written down together
_ANY_PHOTO: Final = PrepareConfig(faces="largest", min_sharpness=0.0, min_face_px=8.0, min_side_px=16, min_visible=0.0)
_SWAPPED: Final = "swapped"


def _blurred(photo: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(photo, (0, 0), PHOTO_PX / 40)  # some 5 % of the face's width


def _tiny(photo: np.ndarray) -> np.ndarray:
    return cv2.resize(photo, (40, 40), interpolation=cv2.INTER_AREA)  # the face is some 20 px wide


def _dark(photo: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 2, photo.shape)  # of a sensor
    return np.clip(photo * 0.12 + noise, 0, 255).astype(np.uint8)


def _half_covered(photo: np.ndarray) -> np.ndarray:
    covered = photo.copy()
    covered[photo.shape[0] // 8 :, : photo.shape[1] // 2] = (96, 104, 112)  # a wall that somebody looks around
    return covered


SPOILED: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "blurred": _blurred,
    "tiny": _tiny,
    "dark": _dark,
    "half covered": _half_covered,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A photo of somebody that is learned."""

    person: int
    kind: str  # "good", or one of SPOILED
    face: PreparedFace

    @property
    def key(self) -> str:
        """What its row is called."""
        return f"{self.person} {self.kind}"


def photo(number: int) -> np.ndarray:
    """The plain portrait of a held-out person that the evaluation learns, too, uint8 [H, W, 3]."""
    scene = sample_scene(np.random.default_rng([0xE7A2, number - FIRST_EVALUATED]), context="plain")
    return render(held_out(number), scene, size=PHOTO_PX).image


def cases(preparer: Preparer, numbers: Sequence[int]) -> tuple[list[Case], list[str]]:
    """Each person's good photo, and the same spoiled in one of four ways; and what was refused."""
    found, refused = list[Case](), list[str]()
    for number in numbers:
        kind = list(SPOILED)[number % len(SPOILED)]
        for called, image in (("good", photo(number)), (kind, SPOILED[kind](photo(number)))):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=95)
            try:
                face = preparer.prepare(buffer.getvalue(), f"held-out {number}, {called}")[0]
            except PhotoRejected as error:
                refused.append(f"{number} {called}: {error}")
                continue
            found.append(Case(person=number, kind=called, face=face))
    return found, refused


def measure(all_cases: Sequence[Case], out: Path) -> dict[str, dict[str, Any]]:
    """A row a case, by its key: likeness to the own photo, to the next person's good one and to the person's good one,
    text alignment, and the photo's score; kept in rows.json as they are done."""
    pack, file = load_pack(PACK), out / "rows.json"
    recipe, config, store = train_settings(pack, "paper"), assess_settings(pack), Store(out / "root")
    rows: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    crops = {case.person: case.face.crop for case in all_cases if case.kind == "good"}
    people = sorted(crops)
    others = dict(zip(people, [*people[1:], people[0]], strict=True))
    missing = [case for case in all_cases if case.key not in rows]
    if not missing:
        return rows
    trainer = load_trainer(pack)
    generator, scorer = ImageGenerator(pack), Scorer(pack)
    ids = {case.key: identity_id(case.face.face_id, recipe, trainer.fingerprint) for case in all_cases}
    for first in range(0, len(missing), _AT_ONCE):
        some = missing[first : first + _AT_ONCE]
        known = identities_by_id(store, [ids[case.key] for case in some])
        learned = trainer.train([case.face for case in some if ids[case.key] not in known], recipe)
        store.upsert("identities", [identity_row(one) for one in learned])
        known |= {one.identity_id: one for one in learned}
        for case in some:
            if (who := known.get(ids[case.key])) is None:  # its words diverged
                rows[case.key] = {"person": case.person, "kind": case.kind, "diverged": True}
                continue
            pictures = generator.generate(probes(who, pack, config))
            own = scorer.assess(who.identity_id, pictures, case.face.crop, config, "")
            swapped = scorer.assess(who.identity_id, pictures, crops[others[case.person]], config, "")
            true = scorer.assess(who.identity_id, pictures, crops[case.person], config, "")
            assert case.face.quality is not None
            rows[case.key] = {
                "person": case.person,
                "kind": case.kind,
                "photo": case.face.quality.score,
                "faults": case.face.quality.faults,
                "likeness": own.likeness,
                "true": true.likeness,
                "swapped": swapped.likeness,
                "text": own.text_alignment,
                "faces": own.num_faces,
            }
            print(rows[case.key], flush=True)
        file.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def scores(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Of each kind, swapped among them, the numbers of its people: likeness, text, photo and quality, float64 [P].

    Quality is as `factory.measure.quality.overall`, beside the medians of the *other* good ones: nobody is measured by
    a ruler that they are part of."""
    measured = [row for row in rows.values() if not row.get("diverged")]
    good = {row["person"]: row for row in measured if row["kind"] == "good"}

    def quality(row: dict[str, Any], likeness: float) -> float:
        rulers = [other for person, other in good.items() if person != row["person"]]
        share = [likeness / np.median([one["likeness"] for one in rulers])]
        share.append(row["text"] / np.median([one["text"] for one in rulers]))
        share.append(row["photo"] / ENOUGH)
        return float(np.clip(min(share), 0, 1))

    found: dict[str, dict[str, list[float]]] = {}
    for row in measured:
        kinds = {row["kind"]: row["likeness"]} | ({_SWAPPED: row["swapped"]} if row["kind"] == "good" else {})
        for kind, likeness in kinds.items():
            numbers = {name: row[name] for name in ("person", "true", "text", "photo")} | {"likeness": likeness}
            for name, number in {**numbers, "quality": quality(row, likeness)}.items():
                found.setdefault(kind, {}).setdefault(name, []).append(number)
    return {kind: {name: np.array(of) for name, of in lists.items()} for kind, lists in found.items()}


def area(found: dict[str, dict[str, np.ndarray]], measure_: str, kinds: Sequence[str]) -> Interval:
    """Area under the ROC curve of a measure, good ones against these kinds, with its 95 % interval over people."""
    good = found["good"]
    bad = {name: np.concatenate([found[kind][name] for kind in kinds]) for name in ("person", measure_)}
    people = np.unique(good["person"])

    def statistic(drawn_RN: np.ndarray) -> np.ndarray:
        areas = []
        for drawn in people[drawn_RN]:
            mine = np.concatenate([good[measure_][good["person"] == one] for one in drawn])
            theirs = np.concatenate([bad[measure_][bad["person"] == one] for one in drawn])
            areas.append(roc_auc(mine, theirs))
        return np.array(areas)

    return bootstrap(statistic, len(people), resamples=500)


def page(found: dict[str, dict[str, np.ndarray]], refused: Sequence[str]) -> str:
    """Markdown: areas, and what each kind reaches."""
    spoiled = [kind for kind in SPOILED if kind in found]
    good = found["good"]
    lines = [
        "# Quality of identities",
        "",
        f"{len(good['person'])} held-out people of the studio world, learned with the pack's own settings from a plain "
        "portrait, and from the same portrait spoiled in one of four ways; *swapped* are good words beside the next "
        "person's photo. Eight probe pictures of each. 95 % intervals over people (bootstrap); bar 0.9.",
        "",
        "| area under ROC, good against | quality | likeness to the own photo alone | text alone | photo score |",
        "|---|---|---|---|---|",
    ]
    for called, kinds in {"swapped or spoiled": [_SWAPPED, *spoiled], _SWAPPED: [_SWAPPED], "spoiled": spoiled}.items():
        lines.append(_areas(found, called, kinds))
    lines += [_areas(found, kind, [kind]) for kind in spoiled]
    lines += ["", "| kind | people | likeness | to the good photo | text alignment | quality | photo score |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for kind in ("good", _SWAPPED, *spoiled):
        cells = [_spread(found[kind][name]) for name in ("likeness", "true", "text", "quality", "photo")]
        lines.append(f"| {kind} | {len(found[kind]['person'])} | {' | '.join(cells)} |")
    lines += ["", "Medians, fifth and 95th percentile. Photos of swapped ones are good, so their score tells nothing."]
    lines += ["", f"Refused before learning: {'; '.join(refused) or 'none'} (limits off)."]
    return "\n".join(lines) + "\n"


def _areas(found: dict[str, dict[str, np.ndarray]], called: str, kinds: Sequence[str]) -> str:
    told = [area(found, name, kinds) for name in ("quality", "likeness", "text", "photo")]
    return f"| {called} | " + " | ".join(f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in told) + " |"


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measures, and writes quality.json and quality.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=NUM_PEOPLE, help="how many held-out people")
    parser.add_argument("--out", type=Path, default=Path("out/quality"), help="where work is kept")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    numbers = range(FIRST_EVALUATED, FIRST_EVALUATED + options.people)
    found, refused = cases(Preparer(load_pack(PACK), _ANY_PHOTO), numbers)
    rows = measure(found, options.out)
    text = page(scores(rows), refused)
    (options.results / "quality.json").write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    (options.results / "quality.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
