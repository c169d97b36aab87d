"""Writes the data of `--data.name` as examples."""

from kerobust.data.examples import write_examples

from ..base import Executor
from ..execution import experiment


class ExampleGenExecutor(Executor):
    """Loads a data set as every command does and writes it."""

    def Do(self, inputs, outputs, exec_properties):
        (examples,) = outputs["examples"]
        source = experiment(exec_properties, examples.uri).source
        write_examples(source, examples.uri)
