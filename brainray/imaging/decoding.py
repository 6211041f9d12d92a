"""The version of the decoding, raised where a new version of brainray gives a model other pixels of the same file.

Runs and bundles keep it among their versions. It is no part of the fingerprint: every model would be another one, and
every run would have to be scored anew, for a change that most files do not meet.
"""

from collections.abc import Mapping

CHANGES = {
    2: "grey JPEG 2000 in DICOM is unpacked in reduced size, which moves probabilities by 0.005 (0.075 at most)",
}
DECODING = max(CHANGES)
NAME = "brainray decoding"  # among the versions


def changes_since(versions: Mapping[str, str]) -> list[str]:
    """What is decoded otherwise now than by these versions of a run or a bundle; those without one are of the first."""
    return [change for number, change in sorted(CHANGES.items()) if number > _decoding_of(versions)]


def oldest_decoding(versions: Mapping[str, str]) -> dict[str, str]:
    """The version that a run notes which had these and goes on: that of its oldest rows, until they are rescored."""
    return {NAME: str(min(DECODING, _decoding_of(versions)))}


def _decoding_of(versions: Mapping[str, str]) -> int:
    known = versions.get(NAME, "1")
    return int(known) if known.isdigit() else 1
