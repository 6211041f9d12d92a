"""Checks of torch, torchvision and the GPU by using them, in a program of its own: what does not fit may crash.

`python -m brainray.doctor.gpu` is that program; see `doctor.findings_of`.
"""

import os
import shutil
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

from .checks import Finding, findings_of, ok, one_line, print_findings, size_text, warning, wrong

TIMEOUT_S = 120  # the first import on a machine reads 2 GB, from a network disk perhaps
_SMI_TIMEOUT_S = 20
_SMALL_GPU_BYTES = 2e9
_ANEW = (
    "install both anew by one command and from one index, for a CPU build of one and a CUDA build of the other do not "
    "match either: pip install --force-reinstall torch torchvision"
)


def check_torch() -> Iterator[Finding]:
    """In 3 s of a processor."""
    return findings_of(__name__, "torch", timeout_s=TIMEOUT_S, remedy=_ANEW)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as torch sees it."""

    name: str
    free_bytes: int
    total_bytes: int
    error: str = ""  # of a convolution on it


@dataclass(frozen=True, kw_only=True)
class Torch:
    """What torch can do with GPUs."""

    cuda: str | None  # version it was built for
    gpus: tuple[Gpu, ...] = ()
    said: str = ""  # while it looked for them


def look_at_torch() -> Iterator[Finding]:
    """What the program tells."""
    both = " and ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision"))
    try:
        _use_both()
    except Exception as exc:  # noqa: BLE001  a wrong build raises many kinds
        yield wrong("torch", f"{both} do not work together ({one_line(f'{type(exc).__name__}: {exc}')})", _ANEW)
        return
    yield ok("torch", f"{both} work together")
    yield from judge_gpus(_ask_torch(), _ask_driver(), hidden_by=_hidden_by())


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _use_both() -> None:
    """One of torchvision's own operators: made for another torch, it is unknown, or the import fails."""
    import torch
    import torchvision

    kept = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    if kept.tolist() != [0]:
        raise RuntimeError("torchvision::nms gave a wrong result")


def _ask_torch() -> Torch:
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    heard = one_line(str(said[0].message)) if said else ""
    if not there:
        return Torch(cuda=torch.version.cuda, said=heard)
    return Torch(cuda=torch.version.cuda, gpus=tuple(_try_gpu(number) for number in range(torch.cuda.device_count())))


def _try_gpu(number: int) -> Gpu:
    import torch

    device = torch.device("cuda", number)
    name = torch.cuda.get_device_name(device)
    try:
        free_bytes, total_bytes = torch.cuda.mem_get_info(device)
        images = torch.ones(1, 1, 8, 8, device=device)
        torch.nn.functional.conv2d(images, torch.ones(1, 1, 3, 3, device=device)).sum().item()
    except RuntimeError as exc:
        return Gpu(name=name, free_bytes=0, total_bytes=0, error=one_line(str(exc)))
    return Gpu(name=name, free_bytes=free_bytes, total_bytes=total_bytes)


def _ask_driver() -> tuple[str, ...]:
    """Name and driver of each GPU, as the driver's own program lists them; none where there is no such program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()


def _hidden_by() -> str:
    """The setting that hides all GPUs from torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"CUDA_VISIBLE_DEVICES={visible}" if visible in ("", "-1", "NoDevFiles") else ""


def judge_gpus(torch: Torch, driver: Sequence[str], *, hidden_by: str = "") -> Iterable[Finding]:
    """`driver`: a line for each GPU there is, whether torch can use it or not."""
    if torch.gpus:
        yield from (_judge_gpu(number, gpu, torch, driver) for number, gpu in enumerate(torch.gpus))
    elif not driver:
        yield ok("gpu", "none, so processors score")
    elif hidden_by:
        yield ok("gpu", f"hidden by {hidden_by}, so processors score: {'; '.join(driver)}")
    elif torch.cuda is None:
        yield warning(
            "gpu",
            f"not used, for this torch is built without CUDA: {'; '.join(driver)}",
            "install torch and torchvision for CUDA by one command: https://pytorch.org/get-started/locally",
        )
    else:
        said = f" ({torch.said})" if torch.said else ""
        yield warning(
            "gpu",
            f"torch for CUDA {torch.cuda} cannot use it{said}: {'; '.join(driver)}",
            "update the NVIDIA driver (CUDA 12 needs 525 or newer, CUDA 13 needs 580), or install an older torch",
        )


def _judge_gpu(number: int, gpu: Gpu, torch: Torch, driver: Sequence[str]) -> Finding:
    version = driver[0].rpartition(",")[2].strip() if driver else "unknown"
    found = f"{gpu.name}, driver {version}, CUDA {torch.cuda}"
    if gpu.error:
        hide = "install a torch built for this GPU, or score on processors: CUDA_VISIBLE_DEVICES=-1"
        return wrong(f"gpu {number}", f"{found}: a convolution fails ({gpu.error})", hide)
    memory = f"{size_text(gpu.free_bytes)} free of {size_text(gpu.total_bytes)}"
    if gpu.free_bytes < _SMALL_GPU_BYTES:
        return warning(f"gpu {number}", f"{found}, {memory}", "end what else uses it (nvidia-smi lists it)")
    return ok(f"gpu {number}", f"{found}, {memory}")


if __name__ == "__main__":
    print_findings(look_at_torch)
