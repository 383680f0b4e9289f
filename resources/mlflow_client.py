"""The way to MLflow: its settings, how long it may keep us waiting, and what is said where it cannot be reached."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from contrail.settings import export

SQLITE = "sqlite:///"
# For libraries that read nothing else. By default a call to a server that is gone blocks for minutes. One that hangs
# costs twice the timeout and the pause between: with `CLOSING_SECONDS` for saying so, a training fails within 30.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
}
CREDENTIAL_NAMES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
CREDENTIALS = re.compile(r"://[^/\s]*@")
CLOSING_SECONDS = 5
ASKING_SECONDS = 20

Answer = TypeVar("Answer")


class TrackingError(RuntimeError):
    """MLflow cannot be reached, or refuses; nothing that scores or decides depends on it."""


def connect(uri: str) -> Any:
    """A client of MLflow; this process's flavours write to the same place.

    A server's user and password are taken out of its address, which MLflow's errors repeat in full.
    """
    uri, credentials = _parted(uri)
    export(ENVIRONMENT | credentials)
    import mlflow

    # Migrating an empty database says so in dozens of lines.
    for talkative in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    # The model flavours write through the process-wide URI; a stray ./mlruns would otherwise win over it.
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_missing_file(uri: str) -> bool:
    """Whether MLflow is a file that is not there: asking would make an empty one, which takes many seconds."""
    return uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file()


@contextmanager
def reached() -> Generator[None]:
    """Whatever MLflow or the way to it raises becomes a `TrackingError` of one line."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        raise TrackingError(f"MLflow does not answer or refuses: {first_line(error)}") from error


def within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """The answer of a call, if it comes in time; a late one goes on by itself and is not waited for.

    Raises:
        TrackingError: it did not come in time.
    """
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # handed to the thread that waits
            errors.append(error)

    # A daemon: the process may end while a server keeps this thread waiting.
    thread = threading.Thread(target=ask, name="mlflow", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TrackingError(f"MLflow did not answer within {seconds:g} s")
    return answers[0]


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without user and password, or its type where it says nothing."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return CREDENTIALS.sub("://…@", said)[:300]


def _parted(uri: str) -> tuple[str, dict[str, str]]:
    """A server's address without user and password, and these as the variables that MLflow reads."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or address.username is None:
        return uri, {}
    place = address.netloc.rpartition("@")[2]
    told = (unquote(address.username), unquote(address.password or ""))
    return address._replace(netloc=place).geturl(), dict(zip(CREDENTIAL_NAMES, told, strict=True))
