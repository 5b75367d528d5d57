"""Getting the figures of a paper again: the ledger of published rows, evaluation against it, records and pages."""

from .ledger import Ledger, Row, read_ledger
from .records import Record, read_records

__all__ = ['Ledger', 'Record', 'Row', 'read_ledger', 'read_records']
