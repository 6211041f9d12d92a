"""What `brainray report` does: build the summary of a run again, or verify its parts. Needs torch only for maps."""

from brainray import storage
from brainray.callbacks import Say
from brainray.config import Explain, PageOptions
from brainray.errors import BadRequest
from brainray.scoring.maps import MapMaker
from brainray.scoring.run_folder import check_is_run, verify_run
from brainray.scoring.summary import Summary, build_summary
from brainray.scoring.verify import Verification
from brainray.storage.lease import hold


def report(
    run: str,
    *,
    say: Say,
    page: PageOptions | None = None,
    explain: Explain | None = None,
    model: str | None = None,
) -> Summary:
    """Write the `summary/` of a run from its parts, with a page unless `page` says otherwise.

    `explain` asks for maps of where scores came from; `model` is where the run's model is now, if it was moved.
    """
    if model is not None and explain is None:
        raise BadRequest("--model is for the maps of --explain; give --explain N, review or all too")
    uri = storage.normalise(run)
    values = check_is_run(uri)
    maps = None if explain is None else MapMaker.of_run(values, explain, model=model, say=say)
    with hold(uri, purpose="report", say=say) as lease:
        return build_summary(uri, lease.writer, page=page, maps=maps)


def verify(run: str) -> Verification:
    """Read every part and compare it with the manifest; write nothing. Raises `VerificationError` for a difference."""
    return verify_run(storage.normalise(run))
