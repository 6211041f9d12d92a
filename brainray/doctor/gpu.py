"""Checks torch, torchvision and GPUs by using them, in a process of its own because a wrong build may crash.

`python -m brainray.doctor.gpu` is that process; `checks.findings_of` runs it. Must not import torch at the top.
"""

import os
import shutil
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

from brainray.storage.scratch import temporary_folder

from .checks import Finding, findings_of, guarded, ok, one_line, print_findings, size_text, warning, wrong

TIMEOUT_S = 120  # the first import of torch reads 2 GB, perhaps from a network disk
_SMI_TIMEOUT_S = 20
_SMALL_GPU_BYTES = 2e9
_REINSTALL = (
    "install both anew by one command and from one index, for a CPU build of one and a CUDA build of the other do not "
    "match either: pip install --force-reinstall torch torchvision"
)


def check_torch() -> Iterator[Finding]:
    """Check torch and GPUs in a process of its own, which takes about 3 CPU seconds."""
    return findings_of(__name__, "torch", timeout_s=TIMEOUT_S, remedy=_REINSTALL)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as torch reports it."""

    name: str
    free_bytes: int
    total_bytes: int
    error: str = ""  # message of a convolution that failed on it


@dataclass(frozen=True, kw_only=True)
class Torch:
    """Torch's report of the GPUs it can use."""

    cuda: str | None  # CUDA version torch was built for; None for a CPU build
    gpus: tuple[Gpu, ...] = ()
    cuda_warning: str = ""  # warning that torch gave while it listed GPUs


def torch_findings() -> Iterator[Finding]:
    """Check torch and GPUs in this process."""
    versions = " and ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision"))
    temporary_folder()  # without one the import of torch fails as with a wrong build
    try:
        _run_torchvision()
    except Exception as exc:  # noqa: BLE001  a wrong build raises many kinds
        yield wrong(
            "torch", f"{versions} do not work together ({one_line(f'{type(exc).__name__}: {exc}')})", _REINSTALL
        )
        return
    yield ok("torch", f"{versions} work together")
    yield from assess_gpus(_probe_torch(), _list_driver_gpus(), hidden_by=_hidden_by())


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _run_torchvision() -> None:
    """Run an operator of torchvision. One built for another torch lacks it, or fails to import."""
    import torch
    import torchvision

    kept = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    if kept.tolist() != [0]:
        raise RuntimeError("torchvision::nms gave a wrong result")


def _probe_torch() -> Torch:
    """List the GPUs that torch can use, and try each."""
    import torch

    with warnings.catch_warnings(record=True) as cuda_warning:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    message = one_line(str(cuda_warning[0].message)) if cuda_warning else ""
    if not is_available:
        return Torch(cuda=torch.version.cuda, cuda_warning=message)
    return Torch(cuda=torch.version.cuda, gpus=tuple(_probe_gpu(number) for number in range(torch.cuda.device_count())))


def _probe_gpu(number: int) -> Gpu:
    """Read a GPU's memory and run a convolution on it."""
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


def _list_driver_gpus() -> tuple[str, ...]:
    """List name and driver of each GPU with nvidia-smi; empty where there is no such program or it fails."""
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
    """Return the setting that hides all GPUs from torch; "" where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"CUDA_VISIBLE_DEVICES={visible}" if visible in ("", "-1", "NoDevFiles") else ""


def assess_gpus(torch: Torch, driver_gpus: Sequence[str], *, hidden_by: str = "") -> Iterable[Finding]:
    """Assess whether the GPUs will be used. `driver_gpus` has a line for each GPU, usable by torch or not."""
    if torch.gpus:
        yield from (_assess_gpu(number, gpu, torch, driver_gpus) for number, gpu in enumerate(torch.gpus))
    elif not driver_gpus:
        yield ok("gpu", "none, so processors score")
    elif hidden_by:
        yield ok("gpu", f"hidden by {hidden_by}, so processors score: {'; '.join(driver_gpus)}")
    elif torch.cuda is None:
        yield warning(
            "gpu",
            f"not used, for this torch is built without CUDA: {'; '.join(driver_gpus)}",
            "install torch and torchvision for CUDA by one command: https://pytorch.org/get-started/locally",
        )
    else:
        cuda_warning = f" ({torch.cuda_warning})" if torch.cuda_warning else ""
        yield warning(
            "gpu",
            f"torch for CUDA {torch.cuda} cannot use it{cuda_warning}: {'; '.join(driver_gpus)}",
            "update the NVIDIA driver (CUDA 12 needs 525 or newer, CUDA 13 needs 580), or install an older torch",
        )


def _assess_gpu(number: int, gpu: Gpu, torch: Torch, driver_gpus: Sequence[str]) -> Finding:
    version = driver_gpus[0].rpartition(",")[2].strip() if driver_gpus else "unknown"
    found = f"{gpu.name}, driver {version}, CUDA {torch.cuda}"
    if gpu.error:
        remedy = "install a torch built for this GPU, or score on processors: CUDA_VISIBLE_DEVICES=-1"
        return wrong(f"gpu {number}", f"{found}: a convolution fails ({gpu.error})", remedy)
    memory = f"{size_text(gpu.free_bytes)} free of {size_text(gpu.total_bytes)}"
    if gpu.free_bytes < _SMALL_GPU_BYTES:
        return warning(f"gpu {number}", f"{found}, {memory}", "end what else uses it (nvidia-smi lists it)")
    return ok(f"gpu {number}", f"{found}, {memory}")


if __name__ == "__main__":
    print_findings(lambda: guarded("torch", torch_findings))
