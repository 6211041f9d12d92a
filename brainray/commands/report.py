"""What `brainray report` does: build the summary of a run again, or verify its parts. Needs neither Ray nor torch."""

from brainray import storage
from brainray.callbacks import Say
from brainray.config import PageOptions
from brainray.scoring.run_folder import check_is_run, verify_run
from brainray.scoring.summary import Summary, build_summary
from brainray.scoring.verify import Verification
from brainray.storage.lease import hold


def report(run: str, *, say: Say, page: PageOptions | None = None) -> Summary:
    """Write the `summary/` of a run from its parts, with a page unless `page` says otherwise."""
    uri = storage.normalise(run)
    check_is_run(uri)
    with hold(uri, purpose="report", say=say) as lease:
        return build_summary(uri, lease.writer, page=page)


def verify(run: str) -> Verification:
    """Read every part and compare it with the manifest; write nothing. Raises `VerificationError` for a difference."""
    return verify_run(storage.normalise(run))
