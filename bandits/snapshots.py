"""A snapshot: an immutable policy version as files, named by the digest of its manifest. Pure: files in memory, no disk.

    manifest.json          what it is, and the SHA-256 of every other file
    state.safetensors      what the next update needs
    params.safetensors     what serving needs
    golden.safetensors     requests with the answers that this snapshot must give

Loaded means verified: digest, hashes, no file too many or too few, structure, shapes, dtypes, finite numbers. No pickle.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pydantic
import safetensors
import safetensors.numpy

from bandits.catalog import PolicySpec, build, providers
from bandits.entry_points import POLICIES, brought_names
from bandits.errors import PolicyError, SnapshotError
from bandits.histograms import FeatureHistogram
from bandits.policy import Dims, Policy, State
from bandits.programs import run_prepare
from protos import config
from protos.errors import ConfigError

__all__ = ["FORMAT", "MANIFEST_FILE", "Draft", "Manifest", "Snapshot", "decode", "encode", "golden_arrays"]

FORMAT = 1
MANIFEST_FILE = "manifest.json"
STATE_FILE, PARAMS_FILE, GOLDEN_FILE = "state.safetensors", "params.safetensors", "golden.safetensors"
_MANIFEST_BYTES = 4 << 20

Kind = Literal["first", "refresh", "change"]


class Manifest(config.StrictModel):
    """What a snapshot says of itself."""

    format: Literal[1] = 1
    tenant: str
    task: str
    #: Name in the catalog, settings (canonical JSON) and floor: together with `dims` the policy's program.
    policy: str
    settings: str
    floor: float
    #: What the policy is wrapped in (canonical JSON), and the most candidates that it draws from, 0 = all.
    wrappers: str = "[]"
    preselect: pydantic.NonNegativeInt = 0
    #: Policy -> `distribution==version`, of those that are not our own.
    providers: dict[str, str] = pydantic.Field(default_factory=dict)
    #: Sizes: actions, context features, action features.
    dims: tuple[pydantic.NonNegativeInt, pydantic.NonNegativeInt, pydantic.NonNegativeInt]
    #: The action table: ids in the order of the state's rows.
    actions: tuple[str, ...]
    schema_digest: str
    config_digest: str
    #: `first`: a task's first champion; `refresh`: the champion's policy on newer data; `change`: another policy or settings.
    kind: Kind
    #: Digest of the snapshot that this one continues, or empty.
    parent: str = ""
    #: It learned from decisions up to this time, microseconds since the epoch; 0 = from none.
    training_watermark_us: int = 0
    #: Rows that it learned from.
    rows: int = 0
    #: Partition -> number of the last commit of the observations table that the state has seen.
    cursor: dict[int, int] = pydantic.Field(default_factory=dict)
    created_us: int
    #: Free text, e.g. "drill".
    label: str = ""
    #: How the context features of its newest training rows lay, by name; empty = not known.
    features: dict[str, FeatureHistogram] = pydantic.Field(default_factory=dict)
    #: File -> SHA-256, 64 hex digits.
    files: dict[str, str]

    @property
    def spec(self) -> PolicySpec:
        """The policy's spec, as the catalog builds it."""
        return PolicySpec(self.policy, self.settings, self.floor, Dims(*self.dims), wrappers=self.wrappers, preselect=self.preselect)


class Draft(NamedTuple):
    """A snapshot that is about to be encoded: `manifest` as Manifest's fields without `files`, `format` and the spec's."""

    spec: PolicySpec
    state: State
    manifest: Mapping[str, Any]


class Snapshot(NamedTuple):
    """A verified snapshot: `state` and `params` as pytrees of numpy arrays, `golden` as named arrays."""

    digest: str
    manifest: Manifest
    state: State
    params: Any
    golden: Mapping[str, np.ndarray]


def encode(draft: Draft, *, golden: Mapping[str, np.ndarray]) -> tuple[str, dict[str, bytes]]:
    """The digest of a draft and its files, manifest last.

    `golden` as made by `golden_arrays`. Raises SnapshotError if a number of the state is not finite.
    """
    params = run_prepare(draft.spec, draft.state)
    files = {
        STATE_FILE: _tensors(draft.state, "state"),
        PARAMS_FILE: _tensors(params, "params"),
        GOLDEN_FILE: safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in golden.items()}),
    }
    spec = draft.spec
    manifest = Manifest(
        **draft.manifest,
        policy=spec.name,
        settings=spec.settings,
        floor=spec.floor,
        wrappers=spec.wrappers,
        preselect=spec.preselect,
        providers=providers(spec),
        dims=(spec.dims.actions, spec.dims.context, spec.dims.features),
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    text = json.dumps(manifest.model_dump(mode="json"), sort_keys=True, indent=1).encode()
    return hashlib.sha256(text).hexdigest(), {**files, MANIFEST_FILE: text}


def decode(digest: str, files: Mapping[str, bytes]) -> Snapshot:
    """The snapshot in `files`. Raises SnapshotError, saying which file and why, for anything that is not exactly what was encoded."""
    manifest = decode_manifest(digest, files.get(MANIFEST_FILE, b""))
    expected = {*manifest.files, MANIFEST_FILE}
    if set(files) != expected:
        raise SnapshotError(f"snapshot {digest}: has files {sorted(files)}, its manifest names {sorted(expected)}; publish it again")
    for name, wanted in manifest.files.items():
        if hashlib.sha256(files[name]).hexdigest() != wanted:
            raise SnapshotError(f"snapshot {digest}: {name} is altered (its SHA-256 is not the manifest's); restore or publish again")
    policy = _built(manifest, digest)
    state = _tree(policy.init, files.get(STATE_FILE), STATE_FILE, "state", digest)
    params = _tree(lambda: policy.prepare(policy.init()), files.get(PARAMS_FILE), PARAMS_FILE, "params", digest)
    golden = _golden(files.get(GOLDEN_FILE), policy, manifest, digest)
    return Snapshot(digest=digest, manifest=manifest, state=state, params=params, golden=golden)


def decode_manifest(digest: str, text: bytes) -> Manifest:
    """The manifest whose digest is given. Raises SnapshotError for another one, or one of another format."""
    if hashlib.sha256(text).hexdigest() != digest or len(text) > _MANIFEST_BYTES:
        raise SnapshotError(f"snapshot {digest}: {MANIFEST_FILE} is absent or altered (its SHA-256 is not the name); publish it again")
    try:
        return config.parse(Manifest, json.loads(text), where=f"snapshot {digest[:12]}: {MANIFEST_FILE}")
    except (ConfigError, ValueError, RecursionError) as error:
        raise SnapshotError(f"snapshot {digest}: {MANIFEST_FILE} is not of format {FORMAT} ({error}); publish it again") from error


def golden_arrays(policy: Policy, dims: Dims, *, requests: int = 8) -> dict[str, np.ndarray]:
    """Inputs of the golden requests: keyed contexts, all actions of the table eligible."""
    rng = np.random.default_rng(0)
    actions = np.arange(max(dims.actions, 1), dtype=np.int32)
    return {
        "context": rng.standard_normal((requests, dims.context)).astype(np.float32),
        "actions": np.tile(actions, (requests, 1)),
        "features": rng.standard_normal((requests, len(actions), dims.features)).astype(np.float32),
        "draw_key": rng.integers(0, 1 << 32, (requests, 2), dtype=np.uint32),
    }


def _built(manifest: Manifest, digest: str) -> Policy:
    """The policy that a manifest names, if this host has it and its action table fits."""
    _require_providers(manifest, digest)
    dims = manifest.spec.dims
    if len(set(manifest.actions)) != dims.actions or len(manifest.actions) != dims.actions:
        raise SnapshotError(
            f"snapshot {digest}: {MANIFEST_FILE} lists {len(manifest.actions)} actions, dims say {dims.actions} distinct; publish it again"
        )
    try:
        spec = PolicySpec.of(
            manifest.policy,
            json.loads(manifest.settings),
            floor=manifest.floor,
            dims=dims,
            wrappers=json.loads(manifest.wrappers),
            preselect=manifest.preselect,
        )
        return build(spec)
    except (PolicyError, ConfigError, TypeError, ValueError) as error:
        raise SnapshotError(
            f"snapshot {digest}: {MANIFEST_FILE}: policy {manifest.policy!r} cannot be built here ({error}); update this host"
        ) from error


def _require_providers(manifest: Manifest, digest: str) -> None:
    """A stranger's policy must come from the very version that the snapshot was made with."""
    for name, wanted in manifest.providers.items():
        found = brought_names(POLICIES).get(name, "none")
        if found != wanted:
            raise SnapshotError(f"snapshot {digest}: policy {name!r} is of {wanted}, this host has {found}; install {wanted}")


def _golden(data: bytes | None, policy: Policy, manifest: Manifest, digest: str) -> dict[str, np.ndarray]:
    """The golden requests and answers, if they are such as `golden_arrays` makes."""
    arrays = _load(data, GOLDEN_FILE, digest)
    inputs = golden_arrays(policy, manifest.spec.dims)
    rows = np.zeros(len(inputs["context"]), np.int32)
    wanted = {**inputs, "slates": rows, "numerators": rows.astype(np.uint32)}
    for name in sorted({*wanted, *arrays}):
        got, like = arrays.get(name), wanted.get(name)
        if got is None or like is None or got.shape != like.shape or got.dtype != like.dtype or not np.all(np.isfinite(got)):
            raise SnapshotError(f"snapshot {digest}: {GOLDEN_FILE} holds no fit {name!r} for this policy; publish it again")
    return arrays


def _tensors(tree: Any, root: str) -> bytes:
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf, order="C")
        name = root + jax.tree_util.keystr(path)
        if not np.all(np.isfinite(array)):
            raise SnapshotError(f"{name}: holds a number that is not finite; the training rows are damaged, nothing is published")
        arrays[name] = array
    return bytes(safetensors.numpy.save(arrays))


def _load(data: bytes | None, name: str, digest: str) -> dict[str, np.ndarray]:
    try:
        return dict(safetensors.numpy.load(data if data is not None else b""))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise SnapshotError(f"snapshot {digest}: {name} is no safetensors file ({error}); publish it again") from error


def _tree(make: Any, data: bytes | None, name: str, root: str, digest: str) -> Any:
    """The arrays of a file in the structure that the policy has here."""
    arrays = _load(data, name, digest)
    paths, structure = jax.tree_util.tree_flatten_with_path(jax.eval_shape(make))
    wanted = {root + jax.tree_util.keystr(path): leaf for path, leaf in paths}
    if set(wanted) != set(arrays):
        raise SnapshotError(f"snapshot {digest}: {name} holds {sorted(arrays)}, the policy needs {sorted(wanted)}; publish it again")
    for key, leaf in wanted.items():
        array = arrays[key]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise SnapshotError(
                f"snapshot {digest}: {name}: {key} is {array.dtype}{array.shape}, the policy needs {leaf.dtype}{leaf.shape}"
            )
        if not np.all(np.isfinite(array)):
            raise SnapshotError(f"snapshot {digest}: {name}: {key} holds a number that is not finite; publish it again")
    return jax.tree_util.tree_unflatten(structure, [arrays[key] for key in wanted])
