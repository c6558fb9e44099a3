"""The verbs, what they hold, how they are made from files, and who watches them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.utils.endpoint.endpoint import Endpoint, Outcome
    from diana.utils.endpoint.manager import ServiceManager
    from diana.utils.endpoint.observable import Event, Observable, Page
    from diana.utils.endpoint.registry import Factory
    from diana.utils.endpoint.serializable import Serializable
    from diana.utils.endpoint.trigger import Trigger
    from diana.utils.endpoint.watcher import Watcher

__all__ = [
    "Endpoint",
    "Event",
    "Factory",
    "Observable",
    "Outcome",
    "Page",
    "Serializable",
    "ServiceManager",
    "Trigger",
    "Watcher",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Endpoint": ".endpoint",
        "Event": ".observable",
        "Factory": ".registry",
        "Observable": ".observable",
        "Outcome": ".endpoint",
        "Page": ".observable",
        "Serializable": ".serializable",
        "ServiceManager": ".manager",
        "Trigger": ".trigger",
        "Watcher": ".watcher",
    },
)
