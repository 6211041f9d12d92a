"""Parses and joins `s3://bucket/key`. Keys are used unescaped, so that every URI leads back to its object."""

import re

from brainray.errors import BadRequest

# AWS allows fewer names for new buckets; older buckets and other stores have these.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_SCHEME = re.compile(r"s3[an]?://", re.IGNORECASE)  # s3a:// and s3n:// are Hadoop's names for the same
# The ARN of an access point, in place of a bucket's name. One without a region is a multi-Region access point, whose
# requests need another signature (SigV4A).
_ACCESS_POINT = re.compile(
    r"arn:aws[a-z-]*:s3(-object-lambda|-outposts)?:[a-z0-9-]+:\d{12}:(outpost[/:][\w-]+[/:])?accesspoint[/:][\w.-]+"
)


def normalise(uri: str) -> str:
    """The canonical spelling of what a user types: no "/" at the end or doubled after the bucket.

    Raises `BadRequest` for a bad URI.
    """
    bucket, key = split(exact(uri))
    key = key.strip("/")
    if any(part in (".", "..") for part in key.split("/")):
        raise BadRequest(f"{_shown(uri)}: S3 has no '.' or '..'; write the key in full")
    return f"s3://{bucket}/{key}" if key else f"s3://{bucket}"


def exact(uri: str) -> str:
    """The URI with s3:// as its scheme. Its key may have any "/", "." or blank.

    Raises `BadRequest` for a bad bucket name.
    """
    uri = _SCHEME.sub("s3://", uri, count=1)
    bucket, _ = split(uri)
    if bucket.startswith("arn:") and not is_access_point(bucket):
        raise BadRequest(
            f"{_shown(uri)}: is no ARN of an access point in one region; write "
            "s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/folder, or the alias of the access point as a bucket"
        )
    if not uri.startswith("s3://") or not (is_access_point(bucket) or _BUCKET.fullmatch(bucket)):
        problem = f"{bucket!r} is no valid bucket name" if bucket else "the bucket's name is missing"
        raise BadRequest(f"{_shown(uri)}: {problem}; write s3://bucket/folder")
    return uri


def is_access_point(bucket: str) -> bool:
    """Whether a bucket is named by the ARN of an access point."""
    return bucket.startswith("arn:") and _ACCESS_POINT.fullmatch(bucket) is not None


def resolve(folder: str, path: str) -> str:
    """A path relative to a folder. "./" and "../" at its start lead from there; the rest is a key as it stands."""
    bucket, key = split(folder)
    parts = key.split("/") if key else []
    rest = path
    while rest.startswith(("./", "../")):
        step, _, rest = rest.partition("/")
        if step == ".." and not parts:
            raise BadRequest(f"{_shown(path)}: leads out of the bucket {bucket}; write s3://bucket/key")
        parts = parts[:-1] if step == ".." else parts
    return f"s3://{bucket}/{'/'.join((*parts, rest))}"


def _shown(uri: str) -> str:
    return " ".join(uri.split())


def split(uri: str) -> tuple[str, str]:
    """Bucket (or the ARN of an access point) and key; the key is "" for the bucket itself."""
    path = uri.removeprefix("s3://")
    arn = _ACCESS_POINT.match(path) if path.startswith("arn:") else None
    if arn is not None:
        return arn[0], path[arn.end() :].removeprefix("/")
    bucket, _, key = path.partition("/")
    return bucket, key


def join(uri: str, name: str) -> str:
    return f"{uri.rstrip('/')}/{name}"


def parent(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[0]


def name_of(uri: str) -> str:
    """The last part of the key; for a bucket, its name."""
    return uri.rstrip("/").rpartition("/")[2]
