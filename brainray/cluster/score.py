"""The engine of `score_job` that is Ray: connect, look at the machines, size the pool, score."""

from collections.abc import Iterator
from contextlib import closing

from brainray.callbacks import Say
from brainray.hardware import read_machine
from brainray.resources import Node, score_pool
from brainray.scoring.estimate import RunEstimate, estimate, probe, sample
from brainray.scoring.parts import PartInfo
from brainray.scoring.plan import Plan
from brainray.scoring.run_folder import ScoreRequest
from brainray.storage.lease import Lease
from brainray.storage.shared_paths import NamedPath, shared_paths_of

from .session import cluster_address, session


def score_with_ray(request: ScoreRequest, plan: Plan, lease: Lease, *, say: Say) -> Iterator[PartInfo]:
    """Score what is pending; yields as each part is committed."""
    options = request.options
    shards = [shard for shard in plan.todo if plan.pending[shard.shard_id]]
    with session(lean=True) as nodes:
        # Not before `session` has silenced Ray, which looks when it is imported.
        from .nodes import Replacements, await_workers, check_every_node
        from .score_workers import ScoreJob, score_shards

        nodes = await_workers(nodes, say=say)
        shared_paths = shared_paths_of(_named(request, plan), output=plan.uri, writer=lease.writer)
        check_every_node(shared_paths)
        job = ScoreJob(
            target=request.target(plan.uri, lease.writer),
            bundle=request.bundle,
            batch_size=options.batch_size,
            precision=options.precision,
            inputs=tuple(plan.described["inputs"]),
            max_unread=options.max_unread,
            shared_paths=shared_paths,
        )
        pool = score_pool(nodes, workers=options.workers, shards=len(shards), images=plan.todo_images)
        with closing(Replacements(pool, say=say)) as replacements:

            def check() -> None:
                lease.check()
                replacements.check()

            yield from score_shards(shards, job, pool, stall_timeout_s=options.stall_timeout_s, check=check, say=say)


def estimate_with_ray(request: ScoreRequest, plan: Plan, *, say: Say) -> RunEstimate:
    """How long scoring what is pending would take here, or on the cluster that is connected to.

    The probe runs here where there is no cluster, else on one of its machines.
    """
    shards = [shard for shard in plan.todo if plan.pending[shard.shard_id]]
    options, images = request.options, plan.todo_images
    if cluster_address() is None:
        nodes = [Node(cpus=read_machine().usable, gpus=0)]
        pool = score_pool(nodes, workers=options.workers, shards=len(shards), images=images)
        return estimate(probe(sample(shards), request.bundle, options), images, nodes=nodes, pool=pool)
    with session() as nodes:
        from .nodes import await_workers, probe_on_a_node

        nodes = await_workers(nodes, say=say)
        pool = score_pool(nodes, workers=options.workers, shards=len(shards), images=images)
        found = probe_on_a_node(sample(shards), request.bundle, options, on_gpu=pool.on_gpu)
    return estimate(found, images, nodes=nodes, pool=pool)


def _named(request: ScoreRequest, plan: Plan) -> Iterator[NamedPath]:
    """What every node must see: the inputs, an image of theirs, the model."""
    inputs = plan.described["inputs"]
    yield from (NamedPath("--input", uri) for uri in inputs)
    yield NamedPath("--model", request.bundle.uri)
    first = next(plan.listing.batches()).slice(0, 1).to_pylist()[0]
    if first["version"] is not None:
        yield NamedPath("--input", first["container"] or first["uri"], first["version"])
