"""What takes the place of helper actors on a private Ray: see `ray_internals` and `train_internals`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ray


def unheard(*_: object) -> None:
    """Stands in for a method that asks for machines: there are no others."""


class _Unheard:
    """A method of an actor that is not there: what it is told is dropped."""

    def remote(self, *_: object) -> None:
        pass


class NoStatistics:
    """Stands in for the actor that keeps figures of all data sets for the dashboard."""

    update_execution_metrics = update_iteration_metrics = register_dataset = gen_dataset_id = _Unheard()


class _Nowhere:
    """A method that knows of no actor where it is, so that Ray Data takes it to be where it was started."""

    def remote(self, *_: object) -> "ray.ObjectRef[dict[str, str]]":
        import ray

        return ray.put({})


class NoLocations:
    """Stands in for the actor to which those of a pool tell their nodes, also after a restart elsewhere."""

    update_actor_location, get_actor_locations = _Unheard(), _Nowhere()


class WholeNode:
    """Stands in for what asks for machines, and divides a cluster among its data sets: they have all of this one."""

    def __init__(self, *_: object, **__: object) -> None:
        import ray

        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        self._resources = {node["NodeID"]: dict(node["Resources"]) for node in nodes if node["Alive"]}

    def request_resources(self, *_: object, **__: object) -> None:
        """Ask for machines: there are no others."""

    def cancel_request(self) -> None:
        """Ask for them no more."""

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        """The resources by node."""
        return self._resources
