"""Lineage in ML Metadata: artifacts, executions, what was made from what, and why.

Types are those of `ARTIFACTS` and one execution type per component. The cache key of an
execution is made of the digests of its inputs, the flags in `PARAMETERS` of its
specification and the digest of the code; all three are kept, so that a miss can be
explained.
"""

import hashlib
import json
import pathlib
from typing import NamedTuple

from kerobust.config import UserError

from .artifacts import ARTIFACTS, Artifact
from .base import Artifacts

DATABASE = "metadata.sqlite"  # In the folder of the pipelines.


class Key(NamedTuple):
    """What decides the outputs of an execution.

    Attributes:
        component: Its name.
        inputs: Input name -> digests of its artifacts.
        parameters: Flag -> text.
        code: Digest of the code.
    """

    component: str
    inputs: dict[str, list[str]]
    parameters: dict[str, str]
    code: str

    def digest(self) -> str:
        """Returns the SHA-256 of everything."""
        text = json.dumps(self, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def changes(self, other: "Key") -> list[str]:
        """Returns, in words, how this key differs from an older one."""
        found = [
            f"input {name} is another one"
            for name in sorted({*self.inputs, *other.inputs})
            if self.inputs.get(name) != other.inputs.get(name)
        ]
        found += [
            f"--{name}={self.parameters.get(name, 'absent')} "
            f"(was {other.parameters.get(name, 'absent')})"
            for name in sorted({*self.parameters, *other.parameters})
            if self.parameters.get(name) != other.parameters.get(name)
        ]
        return found + ["the code changed"] * (self.code != other.code)


class Cached(NamedTuple):
    """A finished execution whose key is the same.

    Attributes:
        execution: Its number.
        outputs: What it made.
    """

    execution: int
    outputs: Artifacts


class Store:
    """The lineage of a folder of pipelines.

    Args:
        path: File of the SQLite database, made if needed.

    Raises:
        UserError: If ML Metadata is not installed.
    """

    def __init__(self, path: pathlib.Path):
        try:
            from ml_metadata import MetadataStore
            from ml_metadata.proto import metadata_store_pb2
        except ImportError as error:
            raise UserError(
                "`components` needs ML Metadata, which is an extra. Received: no "
                f"package ml_metadata ({error}). Install it: "
                "pip install 'kerobust[pipelines]'."
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        self._proto = metadata_store_pb2
        config = metadata_store_pb2.ConnectionConfig()
        config.sqlite.filename_uri = str(path)
        self._store = MetadataStore(config)
        self._types = {name: self._artifact_type(name) for name in ARTIFACTS}

    def begin(self, key: Key, pipeline: str, inputs: Artifacts) -> int:
        """Returns the number of a new running execution."""
        proto = self._proto
        kind = proto.ExecutionType(name=key.component)
        for name in ("key", "parameters", "inputs", "code"):
            kind.properties[name] = proto.STRING
        type_id = self._store.put_execution_type(kind)
        execution = proto.Execution(type_id=type_id)
        execution.last_known_state = proto.Execution.RUNNING
        for name, text in _texts(key).items():
            execution.properties[name].string_value = text
        pairs = self._pairs(inputs, proto.Event.INPUT)
        contexts = [self._context(pipeline)]
        number, _, _ = self._store.put_execution(execution, pairs, contexts)
        return number

    def complete(self, execution: int, outputs: Artifacts) -> None:
        """Marks outputs live and the execution complete, at once."""
        proto = self._proto
        (record,) = self._store.get_executions_by_id([execution])
        record.last_known_state = proto.Execution.COMPLETE
        every = [each for artifacts in outputs.values() for each in artifacts]
        for artifact in every:
            artifact.properties["digest"] = artifact.content_digest()
        pairs = self._pairs(outputs, proto.Event.OUTPUT)
        contexts = self._store.get_contexts_by_execution(execution)
        _, numbers, _ = self._store.put_execution(record, pairs, contexts)
        for artifact, number in zip(every, numbers, strict=True):
            artifact.id = number

    def fail(self, execution: int, reason: str) -> None:
        """Marks an execution failed; it has no outputs."""
        (record,) = self._store.get_executions_by_id([execution])
        record.last_known_state = self._proto.Execution.FAILED
        record.custom_properties["reason"].string_value = reason
        self._store.put_executions([record])

    def find(self, key: Key) -> Cached | None:
        """Returns the newest finished execution with this key whose outputs stand."""
        for record in reversed(self._finished(key.component)):
            if record.properties["key"].string_value != key.digest():
                continue
            outputs = self._artifacts(record.id, self._proto.Event.OUTPUT)
            if all(x.is_intact() for parts in outputs.values() for x in parts):
                return Cached(record.id, outputs)
        return None

    def why_not(self, key: Key) -> str:
        """Returns why there is nothing to reuse: the difference to the last one."""
        finished = self._finished(key.component)
        if not finished:
            return "it has not been run to its end before"
        changes = key.changes(_key(finished[-1], key.component))
        return "; ".join(changes) or "its outputs were changed or removed"

    def blessed_before(self, pipeline: str, report: Artifact) -> list[Artifact]:
        """Returns the older reports of a pipeline on blessed models, newest first.

        Args:
            pipeline: Name of the pipeline.
            report: What is judged. What came after its content was first seen is no
                baseline, so that the same report always meets the same one.
        """
        digest = report.properties["digest"]
        same = [x.id for x in self.artifacts() if x.properties["digest"] == digest]
        first = min(same, default=report.id)
        context = self._store.get_context_by_type_and_name("pipeline", pipeline)
        if context is None:
            return []
        own = {x.id for x in self._store.get_executions_by_context(context.id)}
        found: dict[int, Artifact] = {}
        for record in self._finished("validate"):
            (older,) = self._artifacts(record.id, self._proto.Event.INPUT)["report"]
            outputs = self._artifacts(record.id, self._proto.Event.OUTPUT)
            blessed = _is_blessed(outputs["blessing"][0]) and older.is_intact()
            if record.id in own and blessed and older.id < first:
                found[older.id] = older
        return [found[name] for name in sorted(found, reverse=True)]

    def producer(self, artifact: Artifact) -> tuple[int, Key, str, Artifacts] | None:
        """Returns number, key, pipeline and inputs of what made an artifact."""
        for event in self._store.get_events_by_artifact_ids([artifact.id]):
            if event.type != self._proto.Event.OUTPUT:
                continue
            (record,) = self._store.get_executions_by_id([event.execution_id])
            kinds = self._store.get_execution_types_by_id([record.type_id])
            contexts = self._store.get_contexts_by_execution(record.id)
            inputs = self._artifacts(record.id, self._proto.Event.INPUT)
            return record.id, _key(record, kinds[0].name), contexts[0].name, inputs
        return None

    def artifacts(self) -> list[Artifact]:
        """Returns everything that was finished, oldest first."""
        names = {each.id: each.name for each in self._store.get_artifact_types()}
        records = sorted(self._store.get_artifacts(), key=lambda each: each.id)
        return [_artifact(each, names[each.type_id]) for each in records]

    def _finished(self, component: str) -> list:
        """Returns the complete executions of a component, oldest first."""
        complete = self._proto.Execution.COMPLETE
        try:
            records = self._store.get_executions_by_type(component)
        except KeyError:  # No such type yet.
            return []
        found = [each for each in records if each.last_known_state == complete]
        return sorted(found, key=lambda each: each.id)

    def _artifacts(self, execution: int, kind: int) -> Artifacts:
        """Returns the inputs or outputs of an execution."""
        names = {each.id: each.name for each in self._store.get_artifact_types()}
        found: Artifacts = {}
        for event in self._store.get_events_by_execution_ids([execution]):
            if event.type == kind:
                (record,) = self._store.get_artifacts_by_id([event.artifact_id])
                name = event.path.steps[0].key
                artifact = _artifact(record, names[record.type_id])
                found.setdefault(name, []).append(artifact)
        return found

    def _pairs(self, artifacts: Artifacts, kind: int) -> list:
        """Returns the records and events that put_execution takes."""
        pairs = []
        for name, parts in artifacts.items():
            for index, artifact in enumerate(parts):
                event = self._proto.Event(type=kind, artifact_id=artifact.id or None)
                event.path.steps.add().key = name
                event.path.steps.add().index = index
                pairs.append((self._record(artifact), event))
        return pairs

    def _record(self, artifact: Artifact):
        record = self._proto.Artifact(
            type_id=self._types[artifact.TYPE_NAME],
            uri=str(artifact.uri),
            state=self._proto.Artifact.LIVE,
        )
        if artifact.id:
            record.id = artifact.id
        for name, text in artifact.properties.items():
            record.custom_properties[name].string_value = text
        return record

    def _artifact_type(self, name: str) -> int:
        return self._store.put_artifact_type(self._proto.ArtifactType(name=name))

    def _context(self, pipeline: str):
        kind = self._proto.ContextType(name="pipeline")
        type_id = self._store.put_context_type(kind)
        known = self._store.get_context_by_type_and_name("pipeline", pipeline)
        return known or self._proto.Context(type_id=type_id, name=pipeline)


def _texts(key: Key) -> dict[str, str]:
    """Returns the properties of an execution with this key."""
    return {
        "key": key.digest(),
        "parameters": json.dumps(key.parameters),
        "inputs": json.dumps(key.inputs),
        "code": key.code,
    }


def _key(record, component: str) -> Key:
    texts = {name: value.string_value for name, value in record.properties.items()}
    inputs, parameters = json.loads(texts["inputs"]), json.loads(texts["parameters"])
    return Key(component, inputs, parameters, texts["code"])


def _artifact(record, type_name: str) -> Artifact:
    properties = {k: v.string_value for k, v in record.custom_properties.items()}
    return ARTIFACTS[type_name](pathlib.Path(record.uri), properties, record.id)


def _is_blessed(blessing: Artifact) -> bool:
    return blessing.is_intact() and bool(
        json.loads((blessing.uri / "blessing.json").read_text())["blessed"]
    )
