"""The operations of the REST API, by subject. Importing a module registers its operations."""

from cvat_standin.routes import accounts, data, functions, jobs, review, tasks

__all__ = ["accounts", "data", "functions", "jobs", "review", "tasks"]
