"""The MLflow server, and what a run logs."""
