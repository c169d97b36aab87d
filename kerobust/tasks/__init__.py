"""Downstream tasks: head, loss, metrics and attack objective of each."""

from kerobust.tasks.classification import Classification

TASKS = {"classification": Classification}
