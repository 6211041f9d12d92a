"""`train` or `score` as a job of a Ray cluster: what is uploaded, which job it is, how it is followed and how it ended.

A job's id is made of its command and its output, so a command that is given twice is one job, and the same command
again finds it. Imports no Ray; `jobs_api` talks to the cluster.
"""

import hashlib
import io
import re
import shlex
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import brainray
from brainray.callbacks import Clock, Say, Sleep
from brainray.cluster.jobs_client import Job, JobsApi, last_line
from brainray.errors import BadRequest, BrainrayError, OutputHeld, Unreachable

# What belongs to the package: the same as [tool.setuptools] of pyproject.toml, which a test compares.
SHIPPED = ("**/*.py", "py.typed", "**/templates/*", "shipped/*.json", "shipped/*.safetensors")
# The package has 14 MB, nearly all of it the model. Ray keeps uploads in the memory of the head, 100 MB at most.
_MOST_BYTES = 30_000_000

_POLL_S = 1.0
_LOG_BYTES_PER_S = 1_000_000  # Ray gives a log as a whole only, so a long one is asked for less often
_LOG_TRIES = 5  # for the end of it
_STOP_TIMEOUT_S = 60.0  # Ray kills what has not ended 3 s after it was asked to
_STOPPED = 130  # as in `cli`: by Ctrl-C or a signal

# `exec`: signals and the exit code are those of Python, not of a shell around it. Outside of environments some systems
# have no `python`; `__main__` goes on from whichever it is to the one that has the packages.
_PYTHON = 'exec "$(command -v python || echo python3)"'

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASS|CREDENTIAL|KEY|PRIVATE|AUTH|SIGNATURE", re.I)
_USER_IN_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]*@", re.I)
_SIGNED_URI = re.compile(r"[?&](x-amz-[a-z-]+|signature|sig|token|key)=", re.I)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is to run on the cluster."""

    command: str  # train or score
    arguments: tuple[str, ...]
    output: str  # normalised
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The same for every submission to this output by this command; a number makes it a job's id."""
        return f"brainray-{self.command}-{hashlib.sha256(self.output.encode()).hexdigest()[:12]}"

    @property
    def entrypoint(self) -> str:
        """For a shell."""
        return f"{_PYTHON} -m {shlex.join(['brainray', self.command, *self.arguments])}"


def check_text(what: str, text: str) -> None:
    """Raise `BadRequest` for a password or signature in a URI: Ray shows commands and environments to all its users."""
    if _USER_IN_URI.search(text) or _SIGNED_URI.search(text):
        raise BadRequest(
            f"{what} holds a user, password or signature in a URI, which Ray would show; leave it out and give the "
            "nodes a role, an instance profile or a service account"
        )


def chosen_env(names: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that the job gets, by name. Raises `BadRequest` for one that is not set or looks like a secret."""
    for name in names:
        if _SECRET_NAME.search(name):
            raise BadRequest(
                f"--env {name} looks like a secret, which Ray would show in its dashboard; give the nodes a role, an "
                "instance profile or a service account instead"
            )
        if name not in environ:
            raise BadRequest(f"--env {name}: the variable is not set here; export it first, or leave the option out")
        check_text(f"--env {name}", environ[name])
    return {name: environ[name] for name in names}


def package_files(folder: Path | None = None) -> dict[str, bytes]:
    """Content by name below the job's working directory: the package this code belongs to, and nothing else."""
    folder = folder or Path(brainray.__file__).parent
    paths = {path for pattern in SHIPPED for path in folder.glob(pattern) if path.is_file()}
    files = {f"{folder.name}/{path.relative_to(folder)}": path.read_bytes() for path in sorted(paths)}
    size = sum(map(len, files.values()))
    if size > _MOST_BYTES:
        largest = max(files, key=lambda name: len(files[name]))
        raise BadRequest(
            f"{folder} holds {size / 1e6:,.0f} MB to upload, more than {_MOST_BYTES / 1e6:.0f}; remove what is no part "
            f"of brainray, the largest is {largest}"
        )
    return files


def pack(files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """A zip and the name by which Ray keeps it, which depends on contents only: it is uploaded once to a cluster."""
    digest = hashlib.sha256()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return f"_ray_pkg_{digest.hexdigest()[:40]}.zip", buffer.getvalue()


def place_job(submission: Submission, api: JobsApi, *, say: Say) -> Job:
    """The job of this command: the one that is running, or a new one. Raises `OutputHeld` for one that differs."""
    latest = _latest(submission, api)
    if latest and not latest.ended:
        _check_same(submission, latest)
        say(f"{latest.job_id} is this command and runs already: following it")
        return latest
    number = _number(latest.job_id) + 1 if latest else 1
    job_id = f"{submission.stem}-{number}"
    runtime_env = {"working_dir": upload(api, say=say), "env_vars": dict(submission.env)}
    taken = api.submit(job_id, entrypoint=submission.entrypoint, runtime_env=runtime_env)
    job = api.find(job_id)
    if job is None:
        raise BrainrayError(f"{api.address} took {job_id} and does not know it; run the same command again")
    _check_same(submission, job)
    say(f"submitted {job_id}" if taken else f"{job_id} is this command, submitted a moment ago: following it")
    return job


def upload(api: JobsApi, *, say: Say) -> str:
    """The working directory of a job: this brainray, sent to the cluster unless that has it."""
    files = package_files()
    name, content = pack(files)
    if api.has_package(name):
        say(f"{api.address} has these {len(files)} files of brainray already")
    else:
        say(f"uploading {len(files)} files of brainray, {len(content) / 1e3:,.0f} kB, to {api.address}")
        api.upload_package(name, content)
    return f"gcs://{name}"


def _latest(submission: Submission, api: JobsApi) -> Job | None:
    ours = [job for job in api.jobs() if re.fullmatch(rf"{submission.stem}-\d+", job.job_id)]
    return max(ours, key=lambda job: _number(job.job_id), default=None)


def _number(job_id: str) -> int:
    return int(job_id.rpartition("-")[2])


def _check_same(submission: Submission, job: Job) -> None:
    if job.entrypoint != submission.entrypoint:
        raise OutputHeld(
            f"{submission.output} is the output of {job.job_id}, which was submitted with other arguments "
            f"({job.entrypoint.removeprefix(f'{_PYTHON} -m ')}); wait for it to end, or stop it with --stop"
        )


def follow(
    job: Job, api: JobsApi, *, out: TextIO, say: Say, clock: Clock = time.monotonic, sleep: Sleep = time.sleep
) -> Job:
    """Show the log as it grows, until the job has ended. Raises a `BrainrayError` where it is left running."""
    log = JobLog(out, clock)
    try:
        while True:
            found = api.find(job.job_id)
            if found is None:
                raise BrainrayError(
                    f"the cluster at {api.address} was started anew and knows {job.job_id} no more; "
                    "what it finished is kept, run the same command to go on"
                )
            if found.ended:
                _show_end(found, log, api, say, sleep)
                return found
            if log.due:
                log.show(api.log(job.job_id))
            sleep(_POLL_S)
    except Unreachable as exc:
        raise BrainrayError(f"{job.job_id} may still run, but {exc}, which follows it") from exc
    except KeyboardInterrupt as exc:
        raise _with_code(
            f"{job.job_id} goes on without being watched; the same command follows it again, with --stop it is stopped",
            _STOPPED,
        ) from exc


def _show_end(job: Job, log: "JobLog", api: JobsApi, say: Say, sleep: Sleep) -> None:
    for _ in range(_LOG_TRIES):
        text = api.log(job.job_id)
        if text is not None:
            log.show(text, whole=True)
            return
        sleep(_POLL_S)
    say(f"the end of the log cannot be read now; `ray job logs --address {api.address} {job.job_id}` may show it")


class JobLog:
    """Prints what was not printed yet of a text that grows, in whole lines."""

    def __init__(self, out: TextIO, clock: Clock) -> None:
        self._out: TextIO | None = out
        self._clock = clock
        self._shown = 0  # characters
        self._next_s = clock()

    @property
    def due(self) -> bool:
        return self._clock() >= self._next_s

    def show(self, text: str | None, *, whole: bool = False) -> None:
        """`whole`: nothing will be added any more."""
        if text is None:
            return
        self._next_s = self._clock() + len(text) / _LOG_BYTES_PER_S
        new = text[self._shown :]
        if not whole:
            new = new[: new.rfind("\n") + 1]
        elif new and not new.endswith("\n"):
            new += "\n"
        self._shown += len(new)
        self._print(new)

    def _print(self, text: str) -> None:
        if not text or self._out is None:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:
            self._out = None  # nobody reads any more; how the job ends is of interest still


def check_ending(job: Job) -> None:
    """Raise a `BrainrayError` with the job's own exit code, unless that is 0."""
    if job.status == "SUCCEEDED":
        return
    if job.status == "STOPPED":
        message = f"{job.job_id} was stopped; what it finished is kept, run the same command to go on"
        raise _with_code(message, _STOPPED)
    if not job.exit_code:  # Ray could not start it, or lost the process that watched it
        raise BrainrayError(f"{job.job_id} failed: {last_line(job.message) or 'Ray does not say why'}")
    code = job.exit_code if job.exit_code > 0 else 128 - job.exit_code  # a signal, as shells have it
    raise _with_code(f"{job.job_id} ended with exit code {code}", code)


def stop(
    submission: Submission, api: JobsApi, *, say: Say, clock: Clock = time.monotonic, sleep: Sleep = time.sleep
) -> None:
    """Stop the job of this output, whatever its arguments, and wait until it has ended."""
    job = _latest(submission, api)
    if job is None or job.ended:
        say(f"no job runs for {submission.output}")
        return
    began = clock()
    while job and not job.ended:
        if clock() - began > _STOP_TIMEOUT_S:
            raise BrainrayError(
                f"{job.job_id} still runs {_STOP_TIMEOUT_S:.0f} s after Ray was asked to stop it; ask again"
            )
        api.stop(job.job_id)
        sleep(_POLL_S)
        job = api.find(job.job_id)
    say(f"{job.job_id} has ended: {job.status}" if job else f"the cluster at {api.address} was started anew")


def _with_code(message: str, code: int) -> BrainrayError:
    error = BrainrayError(message)
    error.exit_code = code
    return error
