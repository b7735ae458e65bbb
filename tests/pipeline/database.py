"""A look into the workspace's MLflow database."""

import sqlite3


def select(query: str) -> list[tuple]:
    with sqlite3.connect("mlflow.db") as database:
        return database.execute(query).fetchall()
