"""Let pytest explain failed assertions of the suite, which is no test module by name."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(*(f"tests.contract.suite{part}" for part in ("", "_base", "_find", "_read", "_write")))
