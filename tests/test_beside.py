"""What is no photo by its name, and what of it a user can have."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.errors import SourceError
from pipelines.photos.beside import left_out_as, left_out_path
from pipelines.photos.places import find_places
from tests.sources import named, write


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (".bob.jpg.icloud", "only in iCloud"),
        (".cleo.HEIC.icloud", "only in iCloud"),
        (".notes.txt.icloud", "hidden"),
        (".icloud", "hidden"),
        ("ada.jpg.cloud", "only in a cloud"),
        ("ada.jpg.nextcloud", "only in a cloud"),
        ("Holidays.cloudf", "only in a cloud"),
        ("ada.jpg.gshortcut", "only in a cloud"),
        ("letter.gdoc", "sidecar"),
        ("ada.jpg.crdownload", "unfinished download"),
        ("Unconfirmed 4711.crdownload", "unfinished download"),
        ("ada.jpg.part", "unfinished download"),
        ("ada.part", None),
        ("ada.jpg.1", None),
        ("cloud.jpg", None),
        ("cloud", None),
    ],
)
def test_what_stands_for_a_file_is_known_by_its_name(name: str, kind: str | None) -> None:
    assert left_out_as(name) == kind
    assert left_out_path(f"deep/er/{name}") == kind


def test_what_can_be_had_is_told_with_the_remedy(tmp_path: Path) -> None:
    write(tmp_path, "ada.jpg", ".bob.jpg.icloud", ".cy.heic.icloud", "dan.jpg.part", "eve.jpg.nextcloud", ".hidden")
    write(tmp_path, "fay.jpg.download/fay.jpg", "own.download/gil.jpg")
    assert set(named(tmp_path)) == {"ada", "gil"}
    places = find_places(str(tmp_path))
    assert places.left_out == {"hidden": 1, "only in iCloud": 2, "only in a cloud": 1, "unfinished download": 2}
    told = {sentence.partition(";")[0]: sentence for sentence in places.told}
    assert set(told) == {"2 only in iCloud", "1 only in a cloud", "2 unfinished download"}
    assert "`brctl download FOLDER`" in told["2 only in iCloud"]
    with pytest.raises(SourceError, match=r"1 only in iCloud left out\); 1 only in iCloud; .*brctl download"):
        find_places(str(write(tmp_path / "all", ".bob.jpg.icloud")))
