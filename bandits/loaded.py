"""A verified snapshot bound to its compiled programs: what serving, replay and evaluation call."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bandits.catalog import build
from bandits.errors import SnapshotError
from bandits.marginals import Marginals
from bandits.packed import RowLayout
from bandits.programs import (
    BATCH_BUCKETS,
    AnswerRows,
    Outputs,
    answer_rows,
    candidate_bucket,
    run_decide,
    run_decide_rows,
    run_marginals,
    run_numerators,
    run_prepare,
)
from bandits.requests import Requests
from bandits.snapshots import Draft, Manifest, Snapshot, decode, encode, golden_arrays

__all__ = ["GOLDEN_TOLERANCE", "LoadedPolicy", "encode_snapshot", "load_policy", "read_snapshot"]

# Two platforms' numerators of the same decision agree within this probability.
GOLDEN_TOLERANCE = 1e-6
# A file of a snapshot that is larger than this is not read.
_FILE_BYTES = 4 << 30


class LoadedPolicy:
    """A snapshot that may decide. Immutable; its methods may be called from any thread."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.digest: str = snapshot.digest
        self.manifest: Manifest = snapshot.manifest
        self.action_index: Mapping[str, int] = {action: index for index, action in enumerate(snapshot.manifest.actions)}
        self._spec = snapshot.manifest.spec
        self._params: Any = jax.device_put(snapshot.params)
        self._golden = snapshot.golden

    @property
    def cold_action(self) -> int:
        """Index of an action that the table lacks."""
        return len(self.manifest.actions)

    def decide(self, requests: Requests, *, slots: int, buckets: Sequence[int] = BATCH_BUCKETS) -> Outputs:
        """A slate for each request, of at most `slots` slots; `requests.slots` says how many each wants."""
        return run_decide(self._spec, self._params, requests, slots=slots, buckets=buckets)

    def decide_rows(self, rows: np.ndarray, *, layout: RowLayout, slots: int) -> Outputs:
        """As `decide`, for requests that are already rows of words (`bandits.packed`), u32[n, words]."""
        return run_decide_rows(self._spec, self._params, rows, layout=layout, slots=slots)

    def answer_rows(self, rows: np.ndarray, *, layout: RowLayout, slots: int) -> AnswerRows:
        """As `decide_rows`, for one row or more, with the answers as rows too."""
        return answer_rows(self._spec, self._params, rows, layout=layout, slots=slots)

    def slate_numerators(self, requests: Requests, slates: np.ndarray) -> np.ndarray:
        """Conditional propensities, out of 2^31, u32[n, L], of the given slates i32[n, L]; 0 where a slot is absent or impossible."""
        return run_numerators(self._spec, self._params, requests, slates).numerators

    def marginals(self, requests: Requests, *, slots: int, walks: int = 1024) -> Marginals:
        """P(item anywhere) [n, K] and P(item in slot) [n, L, K] of slates of `slots` slots, with standard errors, 0 where exact."""
        return run_marginals(self._spec, self._params, requests, slots=slots, walks=walks)

    def warm(self, *, candidates: Iterable[int], slots: int, batches: Iterable[int] = BATCH_BUCKETS) -> None:
        """Compiles the programs of these shapes, so that no request does, then checks the golden requests.

        Raises SnapshotError if this host does not give the answers that the snapshot was published with.
        """
        for width in sorted({candidate_bucket(count) for count in candidates}):
            for batch in batches:
                self.decide(self._golden_requests(batch, width), slots=slots)
        self.check_golden(slots=slots)

    def check_golden(self, *, slots: int) -> None:
        """Raises SnapshotError unless the golden requests get the slates, and the numerators within 1e-6, that were published."""
        rows = len(self._golden["context"])
        answers = self.decide(self._golden_requests(rows, self._golden["actions"].shape[1]), slots=slots)
        moved = np.abs(answers.numerators[:, 0].astype(np.float64) - self._golden["numerators"]) / 2.0**31
        if not np.array_equal(answers.slates[:, 0], self._golden["slates"]) or moved.max(initial=0.0) > GOLDEN_TOLERANCE:
            raise SnapshotError(
                f"snapshot {self.digest}: golden requests get other answers on this host (off by {moved.max():.2e}); not served"
            )

    def _golden_requests(self, batch: int, width: int) -> Requests:
        rows = np.arange(batch) % len(self._golden["context"])
        actions, features = self._golden["actions"][rows], self._golden["features"][rows]
        extra = max(width - actions.shape[1], 0)
        return Requests.of(
            self._golden["context"][rows],
            np.pad(actions, ((0, 0), (0, extra)))[:, :width],
            features=np.pad(features, ((0, 0), (0, extra), (0, 0)))[:, :width],
            eligible=np.broadcast_to(np.arange(width) < actions.shape[1], (batch, width)),
            draw_key=self._golden["draw_key"][rows],
        )


def encode_snapshot(draft: Draft) -> tuple[str, dict[str, bytes]]:
    """`snapshots.encode` with the golden requests answered by the draft's own policy."""
    inputs = golden_arrays(build(draft.spec), draft.spec.dims)
    params = run_prepare(draft.spec, draft.state)
    requests = Requests.of(inputs["context"], inputs["actions"], features=inputs["features"], draw_key=inputs["draw_key"])
    answers = run_decide(draft.spec, params, requests, slots=1)
    golden = {**inputs, "slates": answers.slates[:, 0], "numerators": answers.numerators[:, 0]}
    return encode(draft, golden=golden)


def read_snapshot(directory: Path) -> Snapshot:
    """The verified snapshot in a directory that is named by its digest. Raises SnapshotError."""
    digest = directory.name
    try:
        entries = list(directory.iterdir())
        odd = [entry.name for entry in entries if entry.is_symlink() or not entry.is_file() or entry.stat().st_size > _FILE_BYTES]
        if odd:
            raise SnapshotError(f"snapshot {digest}: {odd[0]!r} is no plain file of reasonable size; remove it or publish again")
        files = {entry.name: entry.read_bytes() for entry in entries}
    except OSError as error:
        raise SnapshotError(f"snapshot {digest}: cannot be read ({error}); publish it again") from error
    return decode(digest, files)


def load_policy(directory: Path) -> LoadedPolicy:
    """The policy of a snapshot's directory, verified but not yet warmed. Raises SnapshotError."""
    return LoadedPolicy(read_snapshot(directory))
