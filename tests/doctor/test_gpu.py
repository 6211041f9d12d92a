"""What `brainray doctor` says of torch and GPUs."""

from support.each import each
from support.findings import GB, only

from brainray.doctor import gpu
from brainray.doctor.gpu import Gpu, Torch, assess_gpus, check_torch

# torch and GPUs


def test_a_torchvision_of_another_torch_is_found_by_using_it(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("def tensor(values): return values")
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    finding = only(check_torch())
    assert finding.status == "wrong"
    assert "torchvision::nms does not exist" in finding.found
    assert "pip install --force-reinstall torch torchvision" in finding.remedy


L4 = "NVIDIA L4, 550.54"


FREE = Gpu(name="NVIDIA L4", free_bytes=23 * GB, total_bytes=24 * GB)


@each(
    ("torch", "driver", "hidden_by", "status", "words"),
    [
        (Torch(cuda=None), (), "", "ok", "none"),
        (Torch(cuda=None), (L4,), "", "warning", "built without CUDA: NVIDIA L4"),
        (
            Torch(cuda="13.0", cuda_warning="driver too old"),
            (L4,),
            "",
            "warning",
            "(driver too old): NVIDIA L4, 550.54",
        ),
        (Torch(cuda="13.0"), (L4,), "CUDA_VISIBLE_DEVICES=-1", "ok", "hidden by CUDA_VISIBLE_DEVICES=-1"),
        (Torch(cuda="13.0", gpus=(FREE,)), (L4,), "", "ok", "driver 550.54, CUDA 13.0, 23.0 GB free of 24.0 GB"),
        (
            Torch(cuda="13.0", gpus=(Gpu(name="L4", free_bytes=GB, total_bytes=24 * GB),)),
            (L4,),
            "",
            "warning",
            "1.0 GB",
        ),
        (
            Torch(cuda="13.0", gpus=(Gpu(name="K80", free_bytes=0, total_bytes=0, error="no kernel image"),)),
            (L4,),
            "",
            "wrong",
            "a convolution fails (no kernel image)",
        ),
    ],
)
def test_a_gpu_that_would_stay_idle_is_told(torch, driver, hidden_by, status, words):
    finding = only(assess_gpus(torch, driver, hidden_by=hidden_by))
    assert finding.status == status and words in finding.found


def test_gpus_are_known_from_the_driver_where_torch_knows_none(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu._list_driver_gpus() == ()
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 550.54'\necho 'NVIDIA L4, 550.54'\n")
    program.chmod(0o755)
    assert gpu._list_driver_gpus() == (L4, L4)
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert gpu._list_driver_gpus() == ()
