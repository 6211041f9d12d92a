"""brainray: batch scoring of brain MRI archives with Ray. Not a medical device.

The Python API is what `__all__` names: `score`, `train`, `report`, `compare`, `pick`, `estimate`, `export` and `audit`,
their results and errors.
Importing the package has no effect and imports nothing heavy: each name is imported from its module when first used.
"""

import importlib

# Not that of `typing`: this runs before `cli.start` takes the working folder off the import path.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import audit, compare, report, score, train
    from .commands.compare import CompareResult
    from .commands.estimate import EstimateResult, estimate
    from .commands.export import ExportResult, export
    from .commands.pick import PickResult, pick
    from .commands.results import AuditResult, ReportResult, ScoreResult, TrainResult
    from .commands.score import Progress
    from .config import MaxFailed
    from .errors import (
        BadRequest,
        BrainrayError,
        NoProgress,
        OtherModel,
        Outage,
        OutputHeld,
        StorageError,
        TooManyFailed,
        VerificationError,
    )
    from .evaluation.metrics import IntervalEstimate
    from .evaluation.paired import Difference

__version__ = "0.1.0"

__all__ = [
    "AuditResult",
    "BadRequest",
    "BrainrayError",
    "CompareResult",
    "Difference",
    "EstimateResult",
    "ExportResult",
    "IntervalEstimate",
    "MaxFailed",
    "NoProgress",
    "OtherModel",
    "Outage",
    "OutputHeld",
    "PickResult",
    "Progress",
    "ReportResult",
    "ScoreResult",
    "StorageError",
    "TooManyFailed",
    "TrainResult",
    "VerificationError",
    "audit",
    "compare",
    "estimate",
    "export",
    "pick",
    "report",
    "score",
    "train",
]

# The modules of names that are not in `errors`.
_MODULES = {
    "CompareResult": "commands.compare",
    "Difference": "evaluation.paired",
    "EstimateResult": "commands.estimate",
    "ExportResult": "commands.export",
    "IntervalEstimate": "evaluation.metrics",
    "MaxFailed": "config",
    "PickResult": "commands.pick",
    "Progress": "commands.score",
    "estimate": "commands.estimate",
    "export": "commands.export",
    "pick": "commands.pick",
    **dict.fromkeys(("AuditResult", "ReportResult", "ScoreResult", "TrainResult"), "commands.results"),
    **dict.fromkeys(("audit", "compare", "report", "score", "train"), "api"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
