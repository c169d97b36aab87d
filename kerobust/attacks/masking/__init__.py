"""Signs that a robust accuracy is not what it seems; `attacks.diagnostics` looks."""
