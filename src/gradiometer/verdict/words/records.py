"""Words about how sure a claim is."""

import math

from gradiometer.measurement.counted_claims import Record
from gradiometer.measurement.estimate import significant

# Beyond this no count of a few dozens tells.
MOST = 0.99

UNCOUNTED = "Nobody has counted how often this finding is right."

# A median gain below this is not told in digits.
LITTLE = 0.01

# A claim that is wrong more often than right is no headline of its own.
EVEN = 0.5


def record_in_words(record: Record | None) -> str:
    """How often following such a claim helped, in at most three sentences; empty without a record.

    >>> record_in_words(Record(0.4))
    'Confidence: 40 %, as for similar findings. It is worth a try.'
    """
    if record is None:
        return ""
    confidence = f"Confidence: {min(record.probability, MOST):.0%}".replace("%", " %")
    try_it = " It is worth a try." if record.probability < EVEN else ""
    helped, counted = record.total
    if not counted:
        return f"{confidence}, as for similar findings.{try_it}"
    each = [f"{one} of {among} {name}" for name, (one, among) in record.counts.items()]
    if math.isnan(record.gain):
        return f"{confidence}. No listed change gained 5 % in {' and '.join(each)} that looked like this."
    trainings = " and ".join(each) if len(each) > 1 else next(iter(record.counts))
    share = f"{significant(100 * record.gain, 2)} %" if record.gain >= LITTLE else "less than 1 %"
    worse = f" The training ended worse in {record.harmed}." if record.harmed else ""
    return (
        f"{confidence}. Following it helped in {helped} of {counted} such trainings ({trainings}), by "
        f"{share} of the loss in the median.{worse}{try_it}"
    )
