"""The durable memory: what happened, what was done about it, and the receipts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.ledger.journal import Journal
    from diana.ledger.receipts import Proof, Receipt, ReceiptBook
    from diana.ledger.rows import Delivery, EventRow, Result
    from diana.ledger.slots import Slots
    from diana.ledger.store import Store
    from diana.ledger.work import Work
    from diana.ledger.work_rows import Claim, Item, Job

__all__ = [
    "Claim",
    "Delivery",
    "EventRow",
    "Item",
    "Job",
    "Journal",
    "Proof",
    "Receipt",
    "ReceiptBook",
    "Result",
    "Slots",
    "Store",
    "Work",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Claim": ".work_rows",
        "Delivery": ".rows",
        "EventRow": ".rows",
        "Item": ".work_rows",
        "Job": ".work_rows",
        "Journal": ".journal",
        "Proof": ".receipts",
        "Receipt": ".receipts",
        "ReceiptBook": ".receipts",
        "Result": ".rows",
        "Slots": ".slots",
        "Store": ".store",
        "Work": ".work",
    },
)
