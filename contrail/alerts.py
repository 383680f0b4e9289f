"""Alerts: one message to every target of the settings, through apprise."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from contrail.settings import Settings

LOGGER = logging.getLogger(__name__)


class AlertError(RuntimeError):
    """A target did not take the message; whoever sends tries again on its next tick."""


@dataclass(frozen=True)
class Alert:
    """What is wrong, in a line and in full."""

    title: str
    text: str


def send(settings: Settings, alert: Alert) -> None:
    """Send to all targets; without targets the alert is only logged.

    Raises:
        AlertError: a target is not understood or did not take the message. Its address, which may hold a secret, is
            not named.
    """
    LOGGER.warning("%s: %s", alert.title, alert.text)
    if not settings.alert_urls:
        return
    import apprise

    targets = apprise.Apprise()
    for number, url in enumerate(settings.alert_urls, start=1):
        if not targets.add(url.get_secret_value()):
            raise AlertError(
                f"alert target {number} of CONTRAIL_ALERT_URLS is not one that apprise understands"
            )
    if not targets.notify(
        title=f"Contrail: {alert.title}", body=alert.text, notify_type=apprise.NotifyType.WARNING
    ):
        raise AlertError(f"an alert target did not take the message {alert.title!r}")
