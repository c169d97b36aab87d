"""Hands a model on."""

import json

from kerobust.workflows.pushing import PUSHED, push

from ..base import Executor
from ..execution import evaluated


class PushExecutor(Executor):
    """Calls the workflow `push` beside the verdict."""

    def Do(self, inputs, outputs, exec_properties):
        (blessing,), (pushed,) = inputs["blessing"], outputs["pushed"]
        path = push(evaluated(exec_properties, inputs), blessing.uri, pushed.uri)
        if path is None:
            (pushed.uri / PUSHED).write_text(json.dumps({"path": ""}))
