from .claims import Claim as Claim
from .claims import Claimed as Claimed
from .triage.signs import Signs as Signs
from .triage.triage import Triage as Triage
from .triage.triage import triage_of as triage_of
