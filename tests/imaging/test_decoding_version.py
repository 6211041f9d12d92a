"""A run that goes on with another decoding says so; the fingerprint stays."""

import json
from pathlib import Path

from support.imaging.images import image_bytes
from support.scoring.runs import engine_of, request_for

from brainray.commands.score import score
from brainray.imaging.decoding import CHANGES, DECODING, NAME, changes_since


def test_a_run_goes_on_and_says_what_was_decoded_otherwise(tmp_path, bundle):
    root, output, said = tmp_path / "in", tmp_path / "run", []
    root.mkdir()

    def run():
        score(request_for(root, output, bundle), listener=str, say=said.append, engine=engine_of(bundle))
        return json.loads((output / "run.json").read_text())

    (root / "a.png").write_bytes(image_bytes())
    first = run()
    assert first["versions"][NAME] == str(DECODING) and not any("decoded otherwise" in line for line in said)
    del first["versions"][NAME]
    Path(output, "run.json").write_text(json.dumps(first))
    run()
    assert not any("decoded otherwise" in line for line in said), "nothing was new"
    (root / "b.png").write_bytes(image_bytes())
    assert run()["fingerprint"] == first["fingerprint"]
    (root / "c.png").write_bytes(image_bytes())
    assert run()["versions"][NAME] == "1", "its first rows are as they were"
    line, again = (line for line in said if "decoded otherwise" in line)
    assert CHANGES[2] in line and "--rescore" in line and again == line


def test_changes_are_those_after_the_version_that_is_noted():
    assert changes_since({NAME: str(DECODING)}) == []
    assert changes_since({}) == changes_since({NAME: "?"}) == list(CHANGES.values())
