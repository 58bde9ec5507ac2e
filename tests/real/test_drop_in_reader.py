"""The program that reads drop-ins on a login node: what it takes and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.dropins import LARGEST, MOST, TOGETHER, Reading, command, read
from gateway.model import Completed

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can make files that are root's alone")

SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]


@pytest.fixture(params=SHELLS)
def look(request: pytest.FixtureRequest) -> Callable[[Path], Reading]:
    def run(directory: Path) -> Reading:
        words = command(directory).words
        done = subprocess.run(
            [request.param, *words[1:]], check=False, capture_output=True, text=True, timeout=20
        )
        assert done.stderr == ""
        return read(Completed(done.returncode, done.stdout, done.stderr))

    return run


@pytest.fixture
def site_d() -> Iterator[Path]:
    """A directory of drop-ins that only root can change, parents too."""
    top = Path(f"/opt/drop-ins-{os.getpid()}-{os.urandom(4).hex()}")
    directory = top / "site.d"
    directory.mkdir(parents=True, mode=0o755)
    yield directory
    shutil.rmtree(top)


def put(directory: Path, name: str, text: str = "version: 1\n") -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_the_files_come_in_the_order_of_their_names_in_c(
    site_d: Path, look: Callable[[Path], Reading]
) -> None:
    for name in ("b.yaml", "a.yaml", "B.yaml", "10.yaml", "9.yaml", "notes.txt", ".hidden.yaml", "x y*.yaml"):
        put(site_d, name)
    names = [Path(file.path).name for file in look(site_d).files]
    assert names == ["10.yaml", "9.yaml", "B.yaml", "a.yaml", "b.yaml", "x y*.yaml"]


def test_no_directory_and_an_empty_one_are_no_fault(site_d: Path, look: Callable[[Path], Reading]) -> None:
    assert look(site_d) == look(site_d / "not/there") == Reading(os.uname().nodename)


def test_links_that_only_root_can_have_made_are_followed(
    site_d: Path, look: Callable[[Path], Reading]
) -> None:
    aside = site_d.parent / "aside"
    aside.mkdir(mode=0o755)
    put(aside, "real.yaml", "title: here\n")
    (site_d / "a.yaml").symlink_to("../aside/../aside/./real.yaml")
    (site_d.parent / "link.d").symlink_to(site_d)
    (file,) = look(site_d.parent / "link.d").files
    assert (file.text, file.real) == ("title: here\n", str(aside / "real.yaml"))
    assert file.path == str(site_d.parent / "link.d/a.yaml")


def _owner(directory: Path) -> str:
    os.chown(put(directory, "a.yaml"), 1, 0)
    return f"{directory}/a.yaml: belongs to daemon, not to root: chown root {directory}/a.yaml"


def _mode(directory: Path) -> str:
    put(directory, "a.yaml").chmod(0o664)
    return (
        f"{directory}/a.yaml: can be written by others than root (-rw-rw-r--): chmod go-w {directory}/a.yaml"
    )


def _parent(directory: Path) -> str:
    put(directory, "a.yaml")
    directory.parent.chmod(0o757)
    return f"{directory}: {directory.parent} can be written by others than root (drwxr-xrwx): chmod go-w"


def _parents_owner(directory: Path) -> str:
    put(directory, "a.yaml")
    os.chown(directory.parent, 1, 0)
    return f"{directory}: {directory.parent} belongs to daemon, not to root: chown root {directory.parent}"


def _link_out(directory: Path) -> str:
    (directory / "a.yaml").symlink_to("/tmp/../etc/hostname")
    return (
        f"{directory}/a.yaml: leads through /tmp, which can be written by others than root (drwxrwxrwt): "
        "put the file itself there in place of the link"
    )


def _dangling(directory: Path) -> str:
    (directory / "a.yaml").symlink_to("nowhere")
    return f"{directory}/a.yaml: is a symbolic link that leads nowhere: mend or remove it"


def _circle(directory: Path) -> str:
    (directory / "a.yaml").symlink_to("a.yaml")
    return f"{directory}/a.yaml: is a symbolic link that leads nowhere: mend or remove it"


def _pipe(directory: Path) -> str:
    os.mkfifo(directory / "a.yaml", 0o644)
    return f"{directory}/a.yaml: is no regular file: put one there, or remove it"


def _large(directory: Path) -> str:
    put(directory, "a.yaml", "#" * (LARGEST + 1))
    return f"{directory}/a.yaml: has 65537 bytes, more than 64 kB: make it smaller"


def _many(directory: Path) -> str:
    for number in range(MOST + 1):
        put(directory, f"{number}.yaml")
    return f"{directory}: holds 33 files, more than 32: put them together"


def _no_directory(directory: Path) -> str:
    directory.rmdir()
    put(directory.parent, "site.d")
    return f"{directory}: is no directory: make it one, or remove it"


@pytest.mark.parametrize(
    "spoil",
    [
        _owner,
        _mode,
        _parent,
        _parents_owner,
        _link_out,
        _dangling,
        _circle,
        _pipe,
        _large,
        _many,
        _no_directory,
    ],
    ids=lambda spoil: spoil.__name__.strip("_"),
)
def test_what_others_than_root_could_have_made_is_refused(
    spoil: Callable[[Path], str], site_d: Path, look: Callable[[Path], Reading]
) -> None:
    sentence = spoil(site_d)
    reading = look(site_d)
    assert not reading.files
    assert len(reading.refused) == 1
    assert reading.refused[0].startswith(sentence)


def test_the_largest_set_is_read_whole(site_d: Path, look: Callable[[Path], Reading]) -> None:
    size = TOGETHER // MOST
    for number in range(MOST):
        put(site_d, f"{number:02}.yaml", "#" * size)
    assert [file.size for file in look(site_d).files] == [size] * MOST
    last = put(site_d, f"{MOST - 1}.yaml", "#" * (size + 1))
    reading = look(site_d)
    assert len(reading.files) == MOST - 1
    assert reading.refused == (
        f"{last}: makes 262145 bytes with the files before it, more than 256 kB: make them smaller",
    )
