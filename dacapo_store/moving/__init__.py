"""Moving in and out: bases of DaCapo's own stores become bases of this one, and the other way."""

from __future__ import annotations

from dacapo_store.moving.alone import MoveBusyError
from dacapo_store.moving.exporting import ExportReport, export_base
from dacapo_store.moving.importing import ImportReport, import_base

__all__ = ["ExportReport", "ImportReport", "MoveBusyError", "export_base", "import_base"]
