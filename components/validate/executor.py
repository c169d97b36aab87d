"""Judges an evaluation."""

from kerobust.workflows.validating import validate

from ..base import Executor
from ..execution import evaluated


class ValidateExecutor(Executor):
    """Calls the workflow `validate`; without a blessing the pipeline goes on."""

    def Do(self, inputs, outputs, exec_properties):
        (blessing,) = outputs["blessing"]
        for baseline in inputs.get("baseline", []):
            exec_properties = {
                **exec_properties,
                "validate.baseline": str(baseline.uri),
            }
        validate(evaluated(exec_properties, inputs), blessing.uri)
