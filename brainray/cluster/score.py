"""Runs a scoring plan on Ray: connects, checks the nodes, sizes the pool and scores the pending shards.

The number of actors is decided by `machine.resources.score_pool`. Pixels are decoded in `score_workers`, by the actor
itself or, beside GPUs, by a task. Ray restarts a dead worker and repeats its shard; `score_workers` limits the
attempts. Must not decide which shards are scored: that is the plan.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from threading import Thread

from brainray import storage
from brainray.callbacks import Say
from brainray.machine.hardware import Machine, has_gpu, read_machine
from brainray.machine.resources import Node, missing_memory, score_pool
from brainray.scoring.estimate import RunEstimate, estimate, probe, sample
from brainray.scoring.manifest import Shard
from brainray.scoring.maps.of_shard import MapOrder
from brainray.scoring.parts import PartInfo
from brainray.scoring.plan import Plan
from brainray.scoring.pseudonyms.key import KEY, OPTION
from brainray.scoring.run_folder import ScoreRequest
from brainray.scoring.summary import build
from brainray.storage.lease import Lease
from brainray.storage.shared_paths import NamedPath, shared_paths_of

from .session import cluster_address, nodes_within, session

_WORKERS_MEMORY = 0.7  # of what is free: Ray sets 30 % aside for its object store, where shared memory has room
_SAMPLED_ROWS = 256  # of a chunk of the listing: some of their files may have gone since
_NAMES_ADVICE = "give a folder that all nodes share; names are kept in no bucket"


def score_with_ray(request: ScoreRequest, plan: Plan, lease: Lease, *, say: Say) -> Generator[PartInfo, None, None]:
    """Score the pending shards; yields each part as it is committed. Closed before the last, it ends the workers."""
    options = request.options
    shards = [shard for shard in plan.todo if plan.pending[shard.shard_id]]
    maps = MapOrder.of(request.bundle, options.explain) if options.explain else None
    with session(
        prestart=_workers_here(request, shards=len(shards), images=plan.todo_images), environments=False, say=say
    ) as nodes:
        # Imports Ray, so only after `session` has set the variables that Ray reads on import.
        from .nodes import Replacements, await_workers, check_every_node
        from .score_workers import ScoreJob, score_shards

        nodes = await_workers(nodes, say=say)
        named, samples = _required_paths(request, shards), _sample_files(plan)
        shared_paths = shared_paths_of(named, samples=samples, output=plan.uri, writer=lease.writer)
        checked_nodes = check_every_node(shared_paths)
        job = ScoreJob(
            target=request.target(plan.uri, lease.writer, run=plan.run_json),
            bundle=request.bundle,
            batch_size=options.batch_size,
            precision=options.precision,
            inputs=request.roots,
            max_unread=options.max_unread,
            most_bytes=options.max_file_bytes,
            shared_paths=shared_paths,
            checked_nodes=checked_nodes,
            maps=maps,
        )
        pool = score_pool(nodes, workers=options.workers, shards=len(shards), images=plan.todo_images)
        with closing(Replacements(pool, say=say)) as replacements, _summary_made_ready():

            def check() -> None:
                lease.check()
                replacements.check()

            yield from score_shards(shards, job, pool, stall_timeout_s=options.stall_timeout_s, check=check, say=say)


@contextmanager
def _summary_made_ready() -> Iterator[None]:
    """Make the summary ready in a thread, as long as this process waits for its workers, whose start takes longer."""
    ready = Thread(target=build.make_ready, daemon=True)
    ready.start()
    yield
    ready.join()


def estimate_with_ray(request: ScoreRequest, plan: Plan, *, say: Say) -> RunEstimate:
    """Estimate how long scoring the pending shards takes, on the cluster or, where there is none, on this machine.

    The probe runs where the workers would run.
    """
    shards = [shard for shard in plan.todo if plan.pending[shard.shard_id]]
    options, images, rows = request.options, plan.todo_images, sample(shards)
    if plan.names is not None:
        rows = plan.names.rows(rows)
    if cluster_address() is None:
        nodes = _nodes_of(read_machine())
        pool = score_pool(nodes, workers=options.workers, shards=len(shards), images=images)
        return estimate(probe(rows, request.bundle, options), images, nodes=nodes, pool=pool)
    with session(environments=False, say=say) as nodes:
        from .nodes import await_workers, probe_on_a_node

        nodes = await_workers(nodes, say=say)
        pool = score_pool(nodes, workers=options.workers, shards=len(shards), images=images)
        times = probe_on_a_node(rows, request.bundle, options, on_gpu=pool.on_gpu)
    return estimate(times, images, nodes=nodes, pool=pool)


def _nodes_of(machine: Machine) -> list[Node]:
    """The nodes of a Ray of this process alone, as far as they are known before it is started."""
    return nodes_within([Node(cpus=machine.usable)], machine)


def _workers_here(request: ScoreRequest, *, shards: int, images: int) -> int:
    """How many workers a Ray of this process alone will have at least; 0 where none is started.

    Beside GPUs tasks decode: none is foreseen.
    """
    machine = read_machine()
    is_small = machine.memory_bytes and missing_memory(machine.available_bytes)
    if cluster_address() is not None or is_small or has_gpu():
        return 0
    less = replace(machine, available_bytes=int(_WORKERS_MEMORY * machine.available_bytes))
    return score_pool(_nodes_of(less), workers=request.options.workers, shards=shards, images=images).actors


def _required_paths(request: ScoreRequest, shards: Sequence[Shard]) -> Iterator[NamedPath]:
    """Yield the paths every node must resolve, which stay while a run lasts: the inputs, the model, and of a run with
    pseudonyms the key and the names of the first of its shards.
    """
    hidden = request.pseudonyms is not None  # workers log what they do not see
    yield from (NamedPath("--input", uri, shown=not hidden) for uri in request.roots)
    yield NamedPath("--model", request.bundle.uri)
    if request.pseudonyms is not None and request.names is not None:
        key = storage.join(request.pseudonyms.folder, KEY)
        found = storage.stat(key)
        yield NamedPath(OPTION, key, None if found is None else found.version, advice=_NAMES_ADVICE)
        names = (request.names.file_of(shard.shard_id) for shard in shards[:1])
        yield from (NamedPath(OPTION, uri, advice=_NAMES_ADVICE) for uri in names)


def _sample_files(plan: Plan) -> Iterator[NamedPath]:
    """Yield listed images, or their archives, once each, from evenly spaced rows of the first chunk."""
    chunk = next(plan.listing.batches()) if plan.names is None else plan.names.first_rows(plan.listing)
    places = range(0, chunk.num_rows, -(-chunk.num_rows // _SAMPLED_ROWS))
    rows = chunk.select(["uri", "container", "version"]).take(list(places)).to_pylist()
    files = {row["container"] or row["uri"]: row["version"] for row in rows if row["version"] is not None}
    yield from (NamedPath("--input", uri, version, shown=plan.names is None) for uri, version in files.items())
