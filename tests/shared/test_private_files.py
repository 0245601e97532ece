"""Files with secrets: written for their owner alone, and believed only where nobody else could have written them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.private_files import UntrustedPath, private_folder, read_private, write_private

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_its_owners_only_and_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    write_private(path, "one")
    write_private(path, "two")
    assert read_private(path) == "two"
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_file_is_no_untrusted_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_private(tmp_path / "none")


@pytest.mark.parametrize("rights", [0o770, 0o707, 0o722])
def test_a_folder_that_others_may_write_is_refused_with_the_fix(tmp_path: Path, rights: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(rights)
    for use in (lambda: private_folder(folder), lambda: write_private(folder / "secret", "x")):
        with pytest.raises(UntrustedPath, match=f"can be written by other users .*chmod 700 {folder}"):
            use()
    assert list(folder.iterdir()) == []


def test_a_file_that_others_may_write_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("planted")
    path.chmod(0o620)
    with pytest.raises(UntrustedPath, match=f"chmod 600 {path}"):
        read_private(path)


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Make the folder and its files another user's, and return who owns them now."""
    if os.geteuid() == 0:
        for one in (path, *path.iterdir()):
            os.chown(one, NOBODY, NOBODY)
        return NOBODY
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)  # nobody but root can give a file away: be the other one
    return path.stat().st_uid


@pytest.mark.parametrize("use", [private_folder, lambda path: read_private(path / "secret")])
def test_what_belongs_to_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Path], object]
) -> None:
    folder = tmp_path / "theirs"
    write_private(folder / "secret", "planted")
    owner = give_away(folder, monkeypatch)
    with pytest.raises(UntrustedPath, match=f"belongs to another user .id {owner}.*data_dir"):
        use(folder)
