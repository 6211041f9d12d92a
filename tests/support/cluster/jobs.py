"""What tests of `brainray submit` share."""

from brainray.commands import submit


def arguments(root="/in", model="/model", output="/out") -> list[str]:
    return ["--input", str(root), "--model", str(model), "--output", str(output)]


def submission(*words: str, output: str = "/out") -> submit.Submission:
    return submit.Submission(command="score", arguments=words, output=output)


def silent(_: str) -> None:
    pass


def record(status="RUNNING", **changes) -> dict:
    values = {"submission_id": "j-1", "entrypoint": submission().entrypoint, "driver_exit_code": None, "message": ""}
    return values | {"status": status} | changes
