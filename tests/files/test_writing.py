"""Atomic writing: the old file or the new one, whole; the permissions of any new file, from any thread."""

import concurrent.futures
import os
import stat

import pytest

from fs_neurons.files import write_atomically


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with write_atomically(path) as file:
        file.write("Stöckl")
    with pytest.raises(RuntimeError, match="half"), write_atomically(path) as file:
        file.write("M")
        raise RuntimeError("half way")
    assert path.read_text(encoding="utf-8") == "Stöckl"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_bytes_are_written_as_they_are(tmp_path):
    with write_atomically(tmp_path / "file", "wb") as file:
        file.write(b"a\r\nb\n\x00")
    assert (tmp_path / "file").read_bytes() == b"a\r\nb\n\x00"


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_new_files_have_the_default_permissions(tmp_path):
    with open(tmp_path / "plain", "w"):
        pass
    with write_atomically(tmp_path / "atomic"):
        pass
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


def test_the_umask_of_the_process_is_never_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("other threads would see it"))
    with write_atomically(tmp_path / "file"):
        pass


def test_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "file"

    def write(letter):
        for _ in range(20):
            with write_atomically(path) as file:
                file.write(letter * 1000)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert len(set(path.read_text())) == 1 and len(path.read_text()) == 1000
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
