"""Where batches run: on one device, on all devices of a machine, or on many machines (tf.distribute).

    distribution = start("multi_worker")          # before anything else that uses TensorFlow
    with distribution.scope():
        snn = fs.convert(model)
    evaluate(snn, data, distribution=distribution)

A replica is a device that takes batches. Batch number i goes to replica i modulo their number, and is
the same batch, of the same size, that a single device would take: all counts are those of one device.
Every worker runs the same program and ends with the same result; the chief alone prints and writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from fs_neurons.backend import compiled

STRATEGIES = ("one", "mirrored", "multi_worker")
# A worker that is silent for so long is given up.
TIMEOUT_SECONDS = 120


class WorkerLostError(RuntimeError):
    """Another worker has ended or does not answer: what was not gathered is lost, and nothing else."""


class Distribution:
    """One device.

    Attributes:
        replicas: number of devices of all workers.
        local: numbers of this worker's replicas.
    """

    replicas: int = 1
    local: range = range(1)

    @property
    def is_chief(self) -> bool:
        """Whether this worker prints and writes."""
        return 0 in self.local

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """In it models are made or loaded."""
        return contextlib.nullcontext()

    def compiled(
        self, function: Callable[..., Any]
    ) -> Callable[[Sequence[tuple[Any, ...]]], list[Any]]:
        """`function` of tensors on all replicas of this worker at once.

        Returns:
            A function of one tuple of arguments per local replica, that gives one result for each.
        """
        run = compiled(function)
        return lambda batches: [
            run(*keras.tree.map_structure(keras.ops.convert_to_tensor, batch)) for batch in batches
        ]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, columns), int64, of all workers, in their order; n may differ between them.

        Raises:
            WorkerLostError: another worker is gone.
        """
        return rows

    def gather_json(self, value: Any) -> list[Any]:
        """A JSON value of every worker, in their order.

        Raises:
            WorkerLostError: another worker is gone.
        """
        text = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int64)
        sizes = self.gather(np.array([[len(text)]], np.int64))[:, 0]
        parts = np.split(self.gather(text[:, None])[:, 0], np.cumsum(sizes)[:-1])
        return [json.loads(part.astype(np.uint8).tobytes()) for part in parts]

    def check_same(self, what: str, value: str) -> None:
        """Compares something that has to be the same for all workers.

        Raises:
            ValueError: it is not.
            WorkerLostError: another worker is gone.
        """
        digest = np.frombuffer(hashlib.sha256(value.encode()).digest()[:8], np.int64)
        if len(set(self.gather(digest[None])[:, 0].tolist())) > 1:
            raise ValueError(
                f"the workers differ in {what}, which is {value} here: give all of them the same"
                " arguments and files"
            )


ONE = Distribution()


class _Distributed(Distribution):
    """The replicas of a tf.distribute strategy."""

    def __init__(self, strategy: Any):
        import tensorflow as tf

        self.strategy = strategy
        self.replicas = strategy.num_replicas_in_sync
        numbers: list[int] = []

        def note_number(context: Any) -> Any:
            numbers.append(context.replica_id_in_sync_group)
            return tf.constant(0)

        strategy.experimental_distribute_values_from_function(note_number)
        self.local = range(numbers[0], numbers[-1] + 1)
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=TIMEOUT_SECONDS)

        def gather_here(rows: Any) -> Any:
            # An argument of a traced function is on no device yet; its copy is on the replica's.
            context = tf.distribute.get_replica_context()
            return context.all_gather(tf.identity(rows), axis=0, options=options)

        self._gather = tf.function(
            lambda rows: strategy.run(gather_here, args=(rows,)), autograph=False,
            reduce_retracing=True,
        )  # fmt: skip

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        scope: contextlib.AbstractContextManager[Any] = self.strategy.scope()
        return scope

    def compiled(
        self, function: Callable[..., Any]
    ) -> Callable[[Sequence[tuple[Any, ...]]], list[Any]]:
        import tensorflow as tf

        on_replicas = tf.function(
            lambda *args: self.strategy.run(function, args=args), autograph=False
        )

        def run(batches: Sequence[tuple[Any, ...]]) -> list[Any]:
            # Structures of the replicas' values, then one structure per replica.
            values = keras.tree.map_structure(lambda *parts: self._values(parts), *batches)
            with _lost_workers():
                results = on_replicas(*values)
                parts = keras.tree.map_structure(self.strategy.experimental_local_results, results)
            return [
                keras.tree.map_structure_up_to(results, lambda part: part[i], parts)  # noqa: B023
                for i in range(len(self.local))
            ]

        return run

    def gather(self, rows: np.ndarray) -> np.ndarray:
        nothing = rows[:0]
        values = self._values([rows, *[nothing] * (len(self.local) - 1)])
        with _lost_workers():
            gathered = self._gather(values)
            return np.asarray(self.strategy.experimental_local_results(gathered)[0])

    def _values(self, parts: Sequence[Any]) -> Any:
        """One value per replica of this worker."""
        import tensorflow as tf

        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(
                parts[context.replica_id_in_sync_group - self.local[0]]
            )
        )


@contextlib.contextmanager
def _lost_workers() -> Iterator[None]:
    import tensorflow as tf

    errors = tf.errors
    try:
        yield
    except (
        errors.UnavailableError, errors.DeadlineExceededError, errors.AbortedError,
        errors.CancelledError, errors.FailedPreconditionError,
    ) as error:  # fmt: skip
        reasons = [line for line in error.message.splitlines() if "aborted by" in line]
        reason = reasons[0] if reasons else error.message.strip().splitlines()[-1]
        raise WorkerLostError(f"another worker has ended or does not answer ({reason})") from error


def start(name: str) -> Distribution:
    """The distribution of a strategy's name.

    Args:
        name: "one" for a single device; "mirrored" for all GPUs of this machine (or all logical CPUs,
            where there is no GPU); "multi_worker" for the workers that TF_CONFIG names, each with all
            of its GPUs. The last has to come before anything else that uses TensorFlow, and waits
            for the other workers.

    Raises:
        ValueError: unknown name, another backend than TensorFlow, or no TF_CONFIG for "multi_worker".
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    if name == "one":
        return ONE
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"strategy {name!r} runs on TensorFlow: unset KERAS_BACKEND, which is"
            f" {keras.backend.backend()}"
        )
    import tensorflow as tf

    if name == "mirrored":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return _Distributed(tf.distribute.MirroredStrategy(devices))
    if not _names_workers(os.environ.get("TF_CONFIG", "")):
        raise ValueError(
            'strategy \'multi_worker\' needs TF_CONFIG: {"cluster": {"worker": ["HOST:PORT", ...]},'
            ' "task": {"type": "worker", "index": 0}}, with another index for each worker'
        )
    return _Distributed(tf.distribute.MultiWorkerMirroredStrategy())


def _names_workers(config: str) -> bool:
    try:
        return bool(json.loads(config)["cluster"]) and "index" in json.loads(config)["task"]
    except (ValueError, KeyError, TypeError):
        return False
