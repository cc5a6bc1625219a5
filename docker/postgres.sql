-- Beside the database of MLflow's records, which POSTGRES_DB makes: both keep a table of versions.
CREATE DATABASE optuna;
