"""Moving in and out: bases of DaCapo's own stores become bases of this one, and the other way."""

from __future__ import annotations

from dacapo_store.moving.importing import ImportReport, import_base

__all__ = ["ImportReport", "import_base"]
