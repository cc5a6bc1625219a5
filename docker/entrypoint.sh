#!/bin/sh
# Run a command with the tracking server's password from the file that the environment names, so that
# it stands in no compose file and in no 'docker inspect'.
set -eu
if [ -n "${MLFLOW_TRACKING_PASSWORD_FILE:-}" ]; then
    MLFLOW_TRACKING_PASSWORD=$(cat "$MLFLOW_TRACKING_PASSWORD_FILE")
    export MLFLOW_TRACKING_PASSWORD
fi
exec "$@"
