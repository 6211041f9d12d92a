"""What `brainray submit` does: run `train` or `score` as a job of a Ray cluster, follow its log, give its exit code.

A job's id is a hash of its command and output, so a command given twice is one job, and the same command finds it
again. Imports no Ray; `jobs_client` sends the requests.
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

# The files of the package, as [tool.setuptools] in pyproject.toml has them; a test compares the two.
SHIPPED = (
    "**/*.py",
    "py.typed",
    "**/templates/*",
    "models/*.safetensors",
    "shipped/**/*.json",
    "shipped/**/*.safetensors",
    "shipped/**/*.parquet",
)
# The package has 17 MB, nearly all of it models. Ray keeps uploads in the head's memory and refuses over 100 MB.
_MAX_BYTES = 30_000_000

_POLL_S = 1.0
_LOG_BYTES_PER_S = 1_000_000  # Ray sends the whole log each time, so a long one is requested less often
_LOG_TRIES = 5  # requests for the end of the log
_STOP_TIMEOUT_S = 60.0  # Ray kills a job that has not ended 3 s after the request to stop
_STOPPED = 130  # exit code after Ctrl-C or a signal, as in `cli`

# `exec` makes Python receive the signals and give the exit code, instead of a shell around it. Some systems have only
# `python3`; `__main__` restarts in the Python that has the packages.
_PYTHON = 'exec "$(command -v python || echo python3)"'

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASS|CREDENTIAL|KEY|PRIVATE|AUTH|SIGNATURE", re.I)
_USER_IN_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]*@", re.I)
_SIGNED_URI = re.compile(r"[?&](x-amz-[a-z-]+|signature|sig|token|key)=", re.I)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A command to run on the cluster."""

    command: str  # train or score
    arguments: tuple[str, ...]
    output: str  # normalised
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The job's id without its number: equal for all submissions of this command to this output."""
        return f"brainray-{self.command}-{hashlib.sha256(self.output.encode()).hexdigest()[:12]}"

    @property
    def entrypoint(self) -> str:
        """The shell command of the job."""
        return f"{_PYTHON} -m {shlex.join(['brainray', self.command, *self.arguments])}"


def check_text(what: str, text: str) -> None:
    """Raise `BadRequest` for a password or signature in a URI: Ray shows commands and environments to all its users."""
    if _USER_IN_URI.search(text) or _SIGNED_URI.search(text):
        raise BadRequest(
            f"{what} holds a user, password or signature in a URI, which Ray would show; leave it out and give the "
            "nodes a role, an instance profile or a service account"
        )


def chosen_env(names: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The values of the variables named by --env. Raises `BadRequest` for one that is unset or looks like a secret."""
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
    """The files of this package, by name below the job's working directory."""
    folder = folder or Path(brainray.__file__).parent
    paths = {path for pattern in SHIPPED for path in folder.glob(pattern) if path.is_file()}
    files = {f"{folder.name}/{path.relative_to(folder)}": path.read_bytes() for path in sorted(paths)}
    size = sum(map(len, files.values()))
    if size > _MAX_BYTES:
        largest = max(files, key=lambda name: len(files[name]))
        raise BadRequest(
            f"{folder} holds {size / 1e6:,.0f} MB to upload, more than {_MAX_BYTES / 1e6:.0f}; remove what is not "
            f"part of brainray; the largest file is {largest}"
        )
    return files


def pack(files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """A zip and its name in Ray, a hash of the contents: each version is uploaded once to a cluster."""
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
    """The running job of this command, or a new one. Raises `OutputHeld` where a job with other arguments runs."""
    latest = _latest(submission, api)
    if latest and not latest.ended:
        _check_same(submission, latest)
        say(f"{latest.job_id} is this command and runs already: following it")
        return latest
    number = _number(latest.job_id) + 1 if latest else 1
    job_id = f"{submission.stem}-{number}"
    runtime_env = {"working_dir": upload(api, say=say), "env_vars": dict(submission.env)}
    created = api.submit(job_id, entrypoint=submission.entrypoint, runtime_env=runtime_env)
    job = api.find(job_id)
    if job is None:
        raise BrainrayError(f"{api.address} accepted {job_id} and does not list it; run the same command again")
    _check_same(submission, job)
    say(f"submitted {job_id}" if created else f"{job_id} is this command, submitted a moment ago: following it")
    return job


def upload(api: JobsApi, *, say: Say) -> str:
    """The URI of a job's working directory: this package, uploaded unless the cluster has it."""
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
    """Print the log as it grows, until the job has ended. Raises `BrainrayError` where the job is left running."""
    log = JobLog(out, clock)
    try:
        while True:
            current = api.find(job.job_id)
            if current is None:
                raise BrainrayError(
                    f"the cluster at {api.address} was restarted and has lost {job.job_id}; "
                    "what it finished is kept, run the same command to go on"
                )
            if current.ended:
                _show_end(current, log, api, say, sleep)
                return current
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
    """Prints the new lines of a growing text."""

    def __init__(self, out: TextIO, clock: Clock) -> None:
        self._out: TextIO | None = out
        self._clock = clock
        self._shown = 0  # characters
        self._next_s = clock()

    @property
    def due(self) -> bool:
        return self._clock() >= self._next_s

    def show(self, text: str | None, *, whole: bool = False) -> None:
        """Print the new lines; with `whole` the text is complete, and an unfinished last line is printed too."""
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
            self._out = None  # the reader has closed the pipe; the exit code still matters


def check_ending(job: Job) -> None:
    """Raise `BrainrayError` with the job's exit code where that is not 0."""
    if job.status == "SUCCEEDED":
        return
    if job.status == "STOPPED":
        message = f"{job.job_id} was stopped; what it finished is kept, run the same command to go on"
        raise _with_code(message, _STOPPED)
    if not job.exit_code:  # Ray could not start it, or lost its supervisor
        raise BrainrayError(f"{job.job_id} failed: {last_line(job.message) or 'Ray does not say why'}")
    code = (
        job.exit_code if job.exit_code > 0 else 128 - job.exit_code
    )  # negative: killed by a signal; shells give 128 + signal
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
                f"{job.job_id} still runs {_STOP_TIMEOUT_S:.0f} s after the request to stop it; run this command again"
            )
        api.stop(job.job_id)
        sleep(_POLL_S)
        job = api.find(job.job_id)
    say(f"{job.job_id} has ended: {job.status}" if job else f"the cluster at {api.address} was restarted")


def _with_code(message: str, code: int) -> BrainrayError:
    error = BrainrayError(message)
    error.exit_code = code
    return error
