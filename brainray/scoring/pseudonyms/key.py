"""Pseudonyms: keyed hashes that stand in a run for the names of its input. The key lies in a folder of the user.

A plain hash of a path would not do: paths can be guessed, and tried. A name has one pseudonym for each key, so that
images keep theirs from night to night, and runs with one key can be compared. A pseudonym keeps what other steps need:
which images lie in one folder or archive, the known suffix of a file, and the number of a frame or slice. It is made of
letters, so that no number in it is taken for that of a slice.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from brainray import storage
from brainray.errors import BadRequest, as_bad_request
from brainray.imaging.keyed_hash import KEY_BYTES, keyed_hash
from brainray.inputs import archives
from brainray.inputs.frames import nifti, split_member_frame
from brainray.inputs.frames.listing import is_frame
from brainray.inputs.image_files import SCAN_LEVELS, scan_mark
from brainray.inputs.image_suffixes import image_suffix

OPTION, FOR_READERS = "--pseudonymise-uris", "--real-uris"
KEY, NAMES, INDEXES = "key", "names", "archives"  # in the folder
FIELD = "pseudonyms"  # of run.json: the fingerprint of the key
_FINGERPRINT_HEX = 16
_LOCAL, _BUCKET = "p:", "p:s3/"  # beginnings of pseudonyms; a user sees what they are
_LETTERS = str.maketrans("0123456789", "ghijklmnop")
_GROUP = "g:"
_MOST_FOLDERS = 65_536  # whose pseudonyms are in memory
_MARKS = frozenset(map(scan_mark, SCAN_LEVELS))
_PLAIN = ("folder", "bids", *SCAN_LEVELS)  # words of --group-by that name nothing of the input


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Makes the pseudonyms of a run."""

    folder: str  # that of the user, normalised
    key: bytes = field(repr=False)
    # Texts by the pseudonyms that were made of them, but for images: inputs, groups. They are kept with the names.
    texts: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    _folders: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    _groups: dict[tuple[str, int], str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """What run.json says: equal for equal pseudonyms. It does not tell the key."""
        mark = hmac.new(self.key, b"fingerprint of --pseudonymise-uris of brainray", hashlib.sha256)
        return mark.hexdigest()[:_FINGERPRINT_HEX]

    def indexes(self, output: str) -> str:
        """The folder with the indexes of the archives of a run, which hold the names of members."""
        return storage.join(self.folder, INDEXES, self._letters("run", output))

    def write_key(self) -> None:
        """Make the folder and keep the key. Raises `BadRequest` where another command has just made another one."""
        with as_bad_request(OPTION):
            for folder in (self.folder, storage.join(self.folder, NAMES), storage.join(self.folder, INDEXES)):
                storage.make_private(folder)
            uri = storage.join(self.folder, KEY)
            if not storage.create_private(uri, self.key) and storage.read_bytes(uri) != self.key:
                raise BadRequest(f"{OPTION} {self.folder}: another run has just begun it; run the same command again")

    def of_file(self, uri: str) -> str:
        """The pseudonym of a file."""
        above, _, name = uri.rpartition("/")
        if above not in self._folders:
            if len(self._folders) >= _MOST_FOLDERS:
                self._folders.clear()
            self._folders[above] = (_LOCAL if storage.is_local(uri) else _BUCKET) + self._letters("folder", above)
        return f"{self._folders[above]}/{self._letters('file', uri)}{_known_suffix(name)}"

    def of_image(self, uri: str, container: str | None, place: Iterable[int | None]) -> str:
        """The pseudonym of a listed image; `place` are its offset, size and stored size, see `is_frame`.

        That of a member begins with that of its archive, which the column `container` has.
        """
        if container is None:
            return self.of_file(uri)
        name = uri[len(container) + 1 :]
        offset, size_bytes, stored_bytes = place
        if is_frame(container, name, offset or 0, size_bytes, stored_bytes):
            return f"{self.of_file(container)}#{name}"
        part = split_member_frame(name) or nifti.split(name)
        member = part[0] if part else name
        above, within, last = member.rpartition("/")
        hidden = self._letters("file", container, member) + _known_suffix(last)
        if within:
            hidden = f"{self._letters('folder', container, above)}/{hidden}"
        return f"{self.of_file(container)}#{hidden}{name[len(member) :]}"

    def of_group(self, group: str | None, levels: int) -> str | None:
        """The pseudonym of a group of so many levels, each of which has its own. Marks of scan columns stay."""
        if group is None:
            return None
        if (group, levels) not in self._groups:
            real = group.split("/") if levels > 1 else [group]
            hidden = [
                part if part in _MARKS or not part else _GROUP + self._letters("group", *real[: number + 1])
                for number, part in enumerate(real)
            ]
            for depth in range(1, len(real) + 1):
                self.texts["/".join(hidden[:depth])] = "/".join(real[:depth])
            self._groups[group, levels] = "/".join(hidden)
        return self._groups[group, levels]

    def of_input(self, uri: str) -> str:
        """The pseudonym of an input."""
        return self._kept(self.of_file(uri), uri)

    def of_text(self, text: str) -> str:
        """The pseudonym of a text that may hold names, such as a regular expression that finds patients."""
        return self._kept(_LOCAL + self._letters("text", text), text)

    def of_group_by(self, text: str) -> str:
        """A level of `--group-by` as run.json has it: itself, if it holds no name of the input."""
        pieces = (piece.strip().rpartition("=")[2].partition(":")[0] for piece in text.split(","))
        return text if all(piece in _PLAIN for piece in pieces) else self.of_text(text)

    def _kept(self, pseudonym: str, text: str) -> str:
        self.texts[pseudonym] = text
        return pseudonym

    def _letters(self, *parts: str) -> str:
        return keyed_hash(self.key, *parts).translate(_LETTERS)


def is_local(uri: str) -> bool:
    """Whether an image lies on a disk, by its URI or its pseudonym."""
    return storage.is_local(uri) and not uri.startswith(_BUCKET)


def _known_suffix(name: str) -> str:
    """The suffix of a name, if it is one that formats have: of `scan.jane` it is none."""
    name = name.lower()
    archive = archives.stem(name)
    return image_suffix(name) or (name[len(archive) :] if archive else "")


def read_pseudonyms(folder: str, *, output: str, inputs: Iterable[str]) -> Pseudonyms:
    """The pseudonyms by the key in a folder of the user, or by a new key, which nothing has written yet.

    Raises `BadRequest` for a folder in a bucket, one that readers of the run or the next listing would find, and one
    that holds other files.
    """
    uri = storage.normalise(folder)
    if not storage.is_local(uri):
        raise BadRequest(
            f"{OPTION} {uri}: names would lie in a bucket, where no file mode keeps others out; give a local folder"
        )
    storage.check_is_folder(OPTION, uri, give="a folder that is new or holds the names of earlier runs")
    for option, other in (("--output", output), *(("--input", each) for each in inputs)):
        _check_apart(uri, option, storage.normalise(other))
    with as_bad_request(OPTION):  # the key last: another command may just be beginning the folder, with its key
        held = any(storage.list_names(storage.join(uri, name)) for name in (NAMES, INDEXES))
        names = set(storage.list_names(uri))
    key = _read_key(uri)
    if key is None and names - {NAMES, INDEXES}:
        raise BadRequest(f"{OPTION} {uri} holds other files and no {KEY}; give a new or an empty folder")
    if key is None and held:
        raise BadRequest(
            f"{OPTION} {uri} has lost its file {KEY}; put it back, or give a new folder and a new --output"
        )
    return Pseudonyms(uri, key or secrets.token_bytes(KEY_BYTES))


def _check_apart(folder: str, option: str, other: str) -> None:
    """Raise `BadRequest` where one of two locations lies in the other."""
    if not storage.is_local(other):
        return
    real, theirs = (f"{storage.without_links(uri)}/".replace("//", "/") for uri in (folder, other))
    if real.startswith(theirs):
        raise BadRequest(f"{OPTION} {folder} lies in {option} {other}; keep the names apart, in another folder")
    if theirs.startswith(real):
        raise BadRequest(f"{option} {other} lies in {OPTION} {folder}; keep the names apart, in another folder")


def _read_key(folder: str) -> bytes | None:
    uri = storage.join(folder, KEY)
    with as_bad_request(OPTION):
        if not storage.exists(uri):
            return None
        key = storage.read_bytes(uri, most_bytes=KEY_BYTES)
    if len(key) != KEY_BYTES:
        raise BadRequest(f"{OPTION} {uri} is no key of brainray; put its own back")
    return key


def key_of(option: str, folder: str, run_uri: str, run: Mapping[str, Any]) -> Pseudonyms:
    """The pseudonyms of a run by the folder with its names. Raises `BadRequest` where it has others, or real names."""
    uri, wanted = storage.normalise(folder), run.get(FIELD)
    if wanted is None:
        raise BadRequest(f"{run_uri} holds real names, so {option} {uri} has none of them; leave it out")
    key = _read_key(uri) if storage.is_local(uri) else None
    if key is None:
        raise BadRequest(
            f"{option} {uri} has no file {KEY}; give the folder that the run was made with by {OPTION}, or restore it"
        )
    made = Pseudonyms(uri, key)
    if made.fingerprint != wanted:
        raise BadRequest(
            f"{option} {uri} holds the names of other runs: {run_uri} was made with the key {wanted}, and its key "
            f"is {made.fingerprint}; give the folder that the run was made with"
        )
    return made
