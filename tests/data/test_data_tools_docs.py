"""docs/data.md: every command in it is run, in its order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import data_toy
import pytest

from robopolicy.cli.main import main
from robopolicy.data.store import EpisodeStore

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "data.md"
ENDS_WITH_ONE = {"delete runs/set.zarr episodes=[3,5]"}


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line).removeprefix("robopolicy data ") for line in lines]


def test_every_command_of_the_document_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, first in (("set", 0), ("other", 20)):
        with data_toy.create(tmp_path / f"runs/{name}.zarr", codec="jpeg") as store:
            store.append_many([data_toy.episode(store, i, 39 + i) for i in range(first, first + 10)])
    found = commands()
    assert len(found) == 16
    for command in found:
        if command.startswith("convert"):  # tested with the formats
            continue
        code = main(["data", *shlex.split(command)])
        shown = capsys.readouterr()
        assert code == (1 if command in ENDS_WITH_ONE else 0), f"{command}\n{shown.out}{shown.err}"
    assert EpisodeStore.open("runs/both.zarr").num_episodes == 4 + 10
    assert EpisodeStore.open("runs/set.zarr").num_episodes == 10
    assert (tmp_path / "view.html").is_file()
