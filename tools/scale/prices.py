"""What requests cost, as their sellers say; a month has 30 days. Look yours up and put it here."""

from __future__ import annotations

from typing import Final, NamedTuple

MONTH_SECONDS: Final = 30 * 86_400


class Prices(NamedTuple):
    """US dollars for 1,000 requests.

    Attributes:
        create: Of those that create.
        read: Of those that read.
        source: Where it says so.
    """

    create: float
    read: float
    source: str

    def a_month(self, *, creates_per_second: float, reads_per_second: float) -> float:
        """US dollars for a month of requests at these rates."""
        return MONTH_SECONDS * (creates_per_second * self.create + reads_per_second * self.read) / 1000


PRICES: Final = {
    "S3 Standard, us-east-1": Prices(0.005, 0.0004, "https://aws.amazon.com/s3/pricing/"),
    "Cloud Storage, Standard": Prices(0.005, 0.0004, "https://cloud.google.com/storage/pricing-examples"),
    "S3 Express One Zone, us-east-1": Prices(0.00113, 0.00003, "https://aws.amazon.com/s3/faqs/"),
}
