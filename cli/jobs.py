"""The command line's `jobs` group, and `submit`: jobs that ran, and jobs on another cluster."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import Commands
from cli.errors import user_errors
from cli.options import Root
from cli.output import say, show_table
from factory.storage import PHOTOS_STORAGE, STORAGE

jobs_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Look at the jobs of a root.")

# `submit` may send these; what else there is belongs to this machine.
_REMOTE = ("run", "prepare", "train", "generate", "sculpt", "retry-rejects")
_DASHBOARD = "give the dashboard's URL, such as http://HEAD:8265"
_NOT_SENT = [".venv", "out", ".git", "**/__pycache__", ".*_cache", "*.egg-info"]


@jobs_app.command("list")
def list_all(root: Root) -> None:
    """Every job, newest last: whether it ended, and what it did. `no end`: it still runs, or was killed."""
    with user_errors():
        from factory.store.jobs import list_jobs
        from factory.store.tables import Store

        columns = ["job", "state", "last event", "photos", "faces", "identities", "images", "rejected", "seconds"]
        rows = []
        for job in list_jobs(Store(root).root):
            numbers = [job.summary.get(name, "") for name in ("photos", "faces", "identities", "images")]
            rejected = sum(job.summary["rejected"].values()) if job.summary else ""
            rows.append([job.job_id, job.state, job.age(), *numbers, rejected, job.summary.get("seconds", "")])
        show_table(columns, [[str(cell) for cell in row] for row in rows])


@jobs_app.command("show")
def show_one(job_id: Annotated[str, typer.Argument(help="As `jobs list` shows it.")], root: Root) -> None:
    """One job: how far it is or what it did, its last events, and where its report is."""
    with user_errors():
        from factory.store.jobs import read_job
        from factory.store.tables import Store

        store = Store(root)
        job = read_job(store.root, job_id)
        say(f"{job.job_id}: {job.state}, last event {job.age()}".rstrip(", "))
        last = next((event for event in reversed(job.events) if event["event"] == "progress"), None)
        counts = job.summary or (last["counts"] if last else {})
        show_table(["count", "number"], [[name, str(number)] for name, number in counts.items()])
        for event in job.events[-10:]:
            facts = {name: fact for name, fact in event.items() if name not in ("event", "at", "counts")}
            say(f"{event['at']}  {event['event']}  {facts}")
        if job.summary:
            say(f"{store.root}/jobs/{job_id}/report.html")


def submit(
    context: typer.Context,
    address: Annotated[str, typer.Option("--address", metavar="URL", help="Of Ray's dashboard: http://HEAD:8265.")],
    working_dir: Annotated[
        Path | None, typer.Option("--working-dir", metavar="DIR", help="Send this checkout. [default: it is installed]")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show its output until it ends.")] = False,
) -> None:
    """Run a job on another Ray cluster: everything after the options is a command of this program.

    Paths are the cluster's, so --photos and --root are usually s3://. AWS_ENDPOINT_URL, the region and --storage go
    along, keys do not: the cluster's own role is used.

    Example: `identity-factory submit --address http://head:8265 run --photos s3://b/photos --root s3://b/people`
    """
    with user_errors():
        command = context.args
        if not command or command[0] not in _REMOTE:
            raise typer.BadParameter(f"after the options comes one of {', '.join(_REMOTE)}, with its own options")
        _check_dashboard(address)
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient

        program = "identity-factory" if working_dir is None else "python -m cli"
        of_aws = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
        settings = (*of_aws, STORAGE, PHOTOS_STORAGE)
        environment = {name: value for name in settings if (value := os.environ.get(name))}
        runtime_env: dict[str, object] = {"env_vars": environment}
        if working_dir is not None:
            runtime_env |= {"working_dir": str(working_dir), "excludes": _NOT_SENT}
        try:
            client = JobSubmissionClient(address)
            job_id = client.submit_job(entrypoint=f"{program} {shlex.join(command)}", runtime_env=runtime_env)
        except (ConnectionError, RuntimeError, RayError, ValueError) as error:
            raise OSError(_why_not(address, working_dir, error)) from None
        print(f"{job_id}: ray job logs --address {address} -f {job_id}")
        if wait:
            _follow(client, job_id)


def _check_dashboard(address: str) -> None:
    """Raises OSError, before Ray's client asks for a minute, if no dashboard is at an address."""
    from factory.reach import fault_at

    try:
        fault = fault_at(address)
    except ValueError as error:
        fault = str(error)
    if fault:
        raise OSError(f"{address} takes no job: {fault}; {_DASHBOARD}")


def _why_not(address: str, working_dir: Path | None, error: Exception) -> str:
    """Why a cluster takes no job, and the remedy."""
    from ray.exceptions import AuthenticationError

    from pipelines.jobs.joining import TOKEN

    text = str(error).strip().partition("\n")[0]
    if isinstance(error, AuthenticationError):
        return f"{address}: {TOKEN}"
    if working_dir is not None and ("status code 413" in text or "exceeds the maximum size" in text):
        return (
            f"{working_dir} is too large to be sent with a job ({text[:200]}); name what a job does not need in its "
            ".gitignore or a file .rayignore, or install the program on the cluster and leave --working-dir out"
        )
    return f"{address} takes no job: {text[:300]}; {_DASHBOARD}"


def _follow(client: object, job_id: str) -> None:
    import asyncio

    from ray.job_submission import JobStatus, JobSubmissionClient

    assert isinstance(client, JobSubmissionClient)

    async def show() -> None:
        async for text in client.tail_job_logs(job_id):
            print(text, end="", flush=True)

    asyncio.run(show())
    if client.get_job_status(job_id) is not JobStatus.SUCCEEDED:
        raise typer.Exit(1)
