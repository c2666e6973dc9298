"""Work copies: filled, updated while untouched, and never overwritten once the learner has changed them."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from kvlab import copies


def notebook(text: str, *, tags: tuple[str, ...] = ()) -> str:
    cell = nbformat.v4.new_code_cell(
        f"print({text!r})", execution_count=1, id="cell", metadata={"tags": list(tags)}
    )
    cell.outputs = [nbformat.v4.new_output("stream", text=text + "\n")]
    return nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))


@pytest.fixture
def lessons(tmp_path: Path) -> Path:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "00_start.ipynb").write_text(notebook("zero"))
    (folder / "01_attention.ipynb").write_text(notebook("one"))
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def printed(path: Path) -> str:
    return "".join(json.loads(path.read_text())["cells"][0]["source"])


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.ipynb")}


def test_an_empty_folder_is_filled_once(lessons: Path, work: Path) -> None:
    report = copies.fill(lessons, work)
    assert report.new == ["00_start.ipynb", "01_attention.ipynb"]
    assert report.first == work / "00_start.ipynb"
    before = snapshot(work)
    again = copies.fill(lessons, work)
    assert (again.new, again.updated, again.outdated) == ([], [], [])
    assert snapshot(work) == before
    assert list(again.lines()) == []


def test_what_the_learner_changed_stays(lessons: Path, work: Path) -> None:
    copies.fill(lessons, work)
    mine = work / "01_attention.ipynb"
    mine.write_text(notebook("my own answer"))
    for version in ("one", "one, second edition", "one, third edition"):
        (lessons / "01_attention.ipynb").write_text(notebook(version))
        report = copies.fill(lessons, work)
        assert "my own answer" in printed(mine)
        assert report.outdated == ([] if version == "one" else ["01_attention.ipynb"])
    assert "--fresh 01" in next(iter(report.lines()))


def test_an_untouched_copy_follows_its_lesson(lessons: Path, work: Path) -> None:
    copies.fill(lessons, work)
    (lessons / "00_start.ipynb").write_text(notebook("zero, second edition"))
    assert copies.fill(lessons, work).updated == ["00_start.ipynb"]
    assert "second edition" in printed(work / "00_start.ipynb")


def test_saving_an_untouched_copy_in_jupyter_leaves_it_untouched(lessons: Path, work: Path) -> None:
    copies.fill(lessons, work)
    path = work / "00_start.ipynb"
    nbformat.write(nbformat.read(path, as_version=4), path)
    (lessons / "00_start.ipynb").write_text(notebook("zero, second edition"))
    assert copies.fill(lessons, work).updated == ["00_start.ipynb"]


def test_a_deleted_copy_is_handed_out_again(lessons: Path, work: Path) -> None:
    copies.fill(lessons, work)
    (work / "00_start.ipynb").unlink()
    assert copies.fill(lessons, work).new == ["00_start.ipynb"]


@pytest.mark.parametrize("manifest", [None, "", "[]", "not json"])
def test_without_a_manifest_every_file_is_the_learners(
    lessons: Path, work: Path, manifest: str | None
) -> None:
    work.mkdir()
    (work / "00_start.ipynb").write_text("something of mine")
    if manifest is not None:
        (work / copies.MANIFEST).write_text(manifest)
    for _ in range(2):  # nor may the first call adopt the file, for the second to overwrite it
        assert copies.fill(lessons, work).updated == []
        assert (work / "00_start.ipynb").read_text() == "something of mine"
        (lessons / "00_start.ipynb").write_text(notebook("zero, second edition"))


def test_reveal_cells_are_handed_out_without_outputs(lessons: Path, work: Path) -> None:
    (lessons / "02_reveal.ipynb").write_text(notebook("the measured answer", tags=("reveal",)))
    copies.fill(lessons, work)
    revealing = json.loads((work / "02_reveal.ipynb").read_text())["cells"][0]
    assert revealing["outputs"] == [] and revealing["execution_count"] is None
    assert json.loads((work / "00_start.ipynb").read_text())["cells"][0]["outputs"] != []
    nbformat.validate(nbformat.read(work / "02_reveal.ipynb", as_version=4))


def test_fresh_writes_beside(lessons: Path, work: Path) -> None:
    copies.fill(lessons, work)
    assert copies.fresh(lessons, work, "01") == work / "01_attention.ipynb", (
        "an untouched copy is fresh already"
    )
    (work / "01_attention.ipynb").write_text(notebook("my own answer"))
    second = copies.fresh(lessons, work, "01")
    assert second == work / "01_attention-2.ipynb" and "one" in printed(second)
    second.write_text(notebook("my second answer"))
    assert copies.fresh(lessons, work, "01_att") == work / "01_attention-3.ipynb"
    assert "my own answer" in printed(work / "01_attention.ipynb")
    assert "my second answer" in printed(second)


def test_after_fresh_the_newer_version_is_not_announced_again(lessons: Path, work: Path) -> None:
    copies.fill(lessons, work)
    (work / "01_attention.ipynb").write_text(notebook("my own answer"))
    (lessons / "01_attention.ipynb").write_text(notebook("one, second edition"))
    assert copies.fill(lessons, work).outdated == ["01_attention.ipynb"]
    copies.fresh(lessons, work, "01")
    assert copies.fill(lessons, work).outdated == []


@pytest.mark.parametrize("name", ["07", "", "0"])
def test_fresh_names_the_lessons_there_are(lessons: Path, work: Path, name: str) -> None:
    copies.fill(lessons, work)
    with pytest.raises(ValueError, match="choose one of 00, 01"):
        copies.fresh(lessons, work, name)


def test_no_lessons(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no lessons"):
        copies.fill(tmp_path, tmp_path / "work")


def test_an_interrupted_write_leaves_the_old_copy(
    lessons: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies.fill(lessons, work)
    before = snapshot(work)
    (lessons / "00_start.ipynb").write_text(notebook("zero, second edition"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(copies.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            copies.fill(lessons, work)
    assert snapshot(work) == before
    assert copies.fill(lessons, work).updated == ["00_start.ipynb"]
