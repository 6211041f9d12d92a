"""All uses of private names of Ray Train, as `ray_internals` has those of Ray and of Ray Data."""

from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

from .ray_internals import has_dashboard, on_private
from .stand_ins import unheard

_TRAINER = "ray.train.v2.api.data_parallel_trainer"
_CLEANER = "PlacementGroupCleanerCallback"
_DATASETS = "DatasetsCallback"
_REQUESTS = ("after_controller_start", "_maybe_send_resource_request")
_ABORT_S = 10.0

TrainerClass = TypeVar("TrainerClass", bound=type[Any])


def ask_for_no_machines() -> None:
    """Have trainings on a private Ray ask nobody for machines, now or later in this process.

    Who is asked is an actor, for which the controller waits: a process that imports Ray Data. The methods that ask, of
    the policy that `create_scaling_policy` makes, are replaced where the number of workers is fixed. Where a name is
    missing, Ray Train asks.
    """
    owner = import_module(_TRAINER)
    original = getattr(owner, "create_scaling_policy", None)
    if original is not None and not hasattr(original, "__wrapped__"):
        silent = on_private(lambda scaling_config: _silent(original(scaling_config)), original)
        owner.create_scaling_policy = silent  # type: ignore[attr-defined]


def _silent(policy: Any) -> Any:  # noqa: ANN401
    if not policy.scaling_config.elasticity_enabled:
        for name in filter(lambda name: hasattr(policy, name), _REQUESTS):
            setattr(policy, name, unheard)
    return policy


def without_sigint_handler(trainer: TrainerClass) -> TrainerClass:
    """Keep a subclass of `TorchTrainer` from handling Ctrl-C; a class decorator.

    Replaces `_register_sigint_handler`: the handler would end the process with code 0, and stay when training is over.
    A Ray that calls no such method keeps its behaviour. The method is given the controller, which `end_training` ends.
    """

    def keep_controller(self: Any, controller: Any) -> None:  # noqa: ANN401
        self.controller_to_end = controller

    trainer._register_sigint_handler = keep_controller
    return trainer


def end_training(trainer: Any) -> None:  # noqa: ANN401
    """End the controller of a fit that was cut short, and with it the workers and what they hold of the cluster.

    Uses the controller's `abort`, as Ray's own handler of Ctrl-C does. Without it, or in another thread than the main
    one, where Ray hands out no controller, the workers go on to the last epoch in a Ray that outlives this process.
    """
    import ray

    controller = getattr(trainer, "controller_to_end", None)
    if controller is None:
        return
    with suppress(ray.exceptions.RayError):  # its end is an error, too: the actor has died
        ray.get(controller.abort.remote(), timeout=_ABORT_S)
    with suppress(ray.exceptions.RayError):
        ray.kill(controller)


def without_idle_callbacks(trainer: TrainerClass) -> TrainerClass:
    """Keep a subclass of `TorchTrainer` from starting helpers that have nothing to do; a class decorator.

    Of those that `_create_default_callbacks` makes: the `PlacementGroupCleanerCallback` calls the dashboard, without
    which every training waits 10 s at its end. A Ray without a dashboard is private and ends with this process. The
    `DatasetsCallback` starts a process that imports Ray Data to hand out data sets, of which there are none. Where the
    method or a class is missing, Ray waits, or starts it.
    """
    original = getattr(trainer, "_create_default_callbacks", None)

    def callbacks(self: Any) -> list[Any]:  # noqa: ANN401
        idle = ([] if has_dashboard() else [_CLEANER]) + ([] if self.datasets else [_DATASETS])
        return [each for each in (original(self) if original else []) if type(each).__name__ not in idle]

    if original is not None:
        trainer._create_default_callbacks = callbacks
    return trainer
