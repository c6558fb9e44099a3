"""The durable memory: what happened, what was done about it, and the receipts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.ledger.journal import Journal
    from diana.ledger.receipts import Proof, Receipt, ReceiptBook
    from diana.ledger.rows import Delivery, EventRow, Result
    from diana.ledger.store import Store

__all__ = ["Delivery", "EventRow", "Journal", "Proof", "Receipt", "ReceiptBook", "Result", "Store"]

__getattr__ = lazy_names(
    __name__,
    {
        "Delivery": ".rows",
        "EventRow": ".rows",
        "Journal": ".journal",
        "Proof": ".receipts",
        "Receipt": ".receipts",
        "ReceiptBook": ".receipts",
        "Result": ".rows",
        "Store": ".store",
    },
)
