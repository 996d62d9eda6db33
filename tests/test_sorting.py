"""A source of several sorts: what its photos are, and what is told of the rest."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from factory.errors import SourceError
from pipelines.jobs.job import Summary
from pipelines.photos.places import find_places
from tests.sources import named, table, write

CARD = "# Faces\n![preview](./images/a%20b.png)\n<img width=9 src='https://hub/x/resolve/main/{}'>\n"


def hub(folder: Path, *pictures: str, shown: str = "") -> Path:
    """A repository as Hugging Face's datasets push it, with pictures for its page."""
    table(folder / "data/train-00000-of-00001.parquet", {"image": [b"1", b"2"], "label": [0, 1]})
    table(folder / "data/test-00000-of-00001.parquet", {"image": [b"3"], "label": [0]})
    write(folder, "README.md", ".gitattributes", *pictures)
    (folder / "README.md").write_text(CARD.format(shown))
    return folder


@pytest.mark.parametrize(
    ("pictures", "shown"),
    [
        (["assets/preview.png"], ""),
        (["assets/a.jpg", "assets/deep/b.jpg", "docs/fig/c.png"], ""),
        (["images/a b.png", "images/other.png"], ""),
        (["people.png"], "people.png?download=true"),
        (["thumbnail.jpg", "figure_2.png"], ""),
    ],
)
def test_pictures_of_a_page_do_not_cost_a_data_set(tmp_path: Path, pictures: list[str], shown: str) -> None:
    folder = hub(tmp_path / "hub", *pictures, shown=shown)
    assert set(named(folder).values()) == {b"1", b"2", b"3"}
    places = find_places(str(folder))
    assert places.left_out == {"hidden": 1, "sidecar": 1, "picture of a data set's page": len(pictures)}
    assert all("give that folder as a --photos of its own" in sentence for sentence in places.told) and places.told


def test_a_table_beside_photos_is_left_out_and_told_with_the_remedy(tmp_path: Path) -> None:
    folder = hub(tmp_path / "hub", "faces/ada.jpg", "assets/preview.png")
    assert set(named(folder)) == {"ada", "preview"}, "nothing says which of them are meant: the pictures are read"
    places = find_places(str(folder))
    assert places.left_out["Parquet beside photos"] == 2
    [sentence] = places.told
    assert sentence.startswith(f"{folder}/data/test-00000-of-00001.parquet and 1 more were left out, as photos lie")
    assert "--photos of its own" in sentence
    both = {p.rsplit("/", 1)[-1] for p in named(folder / "faces")} | set(named(folder / "data"))
    assert both == {"ada", "train-00000-of-00001-0", "train-00000-of-00001-1", "test-00000-of-00001-0"}
    summary = Summary(job="prepare", job_id="x", told=places.told)
    assert f"  note: {sentence}" in summary.lines()


def test_many_pictures_of_which_a_page_shows_one_are_photos(tmp_path: Path) -> None:
    folder = hub(tmp_path / "hub", "images/a b.png", *(f"images/{number}.jpg" for number in range(40)))
    assert len(named(folder)) == 41 and find_places(str(folder)).left_out["Parquet beside photos"] == 2


def test_a_list_without_photos_is_no_data_set(tmp_path: Path) -> None:
    """Beside photos, whatever their folder is called, and beside the tars that img2dataset writes."""
    write(tmp_path, "samples/ada.jpg", "README.md")
    table(tmp_path / "metadata.parquet", {"file_name": ["samples/ada.jpg"], "text": ["Ada"]})
    assert set(named(tmp_path)) == {"ada"}
    [sentence] = find_places(str(tmp_path)).told
    assert "metadata.parquet has columns file_name, text; it needs image" in sentence
    (tmp_path / "metadata.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SourceError, match="run git lfs pull"):
        find_places(str(tmp_path))


def test_pictures_that_a_page_shows_are_no_photos_beside_archives(tmp_path: Path) -> None:
    import zipfile

    write(tmp_path, "assets/logo.png", "people.png", "README.md")
    (tmp_path / "README.md").write_text(CARD.format("people.png"))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        packed.writestr("ada.jpg", b"ada")
    assert set(named(tmp_path)) == {"ada", "logo"}
    assert find_places(str(tmp_path)).left_out["picture of a data set's page"] == 1
    (tmp_path / "photos.zip").unlink()
    assert set(named(tmp_path)) == {"logo", "people"}, "there is nothing else"


def test_arrow_tables_with_a_picture_for_their_page_are_told(tmp_path: Path) -> None:
    write(tmp_path, "assets/preview.png", "train/state.json")
    with pa.ipc.new_stream(str(tmp_path / "train/data.arrow"), pa.schema([("image", pa.binary())])):
        pass
    with pytest.raises(SourceError, match="is an Arrow table"):
        find_places(str(tmp_path))
