"""The studies' book, in Optuna's tables: read and written by who has the right to."""
