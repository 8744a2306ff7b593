"""The networks and the data of all parts of the clinic, by name."""

from functools import cache

from clinic import (
    data,
    eighth,
    eleventh,
    eleventh_data,
    fifth,
    fourth,
    networks,
    ninth,
    seventh,
    sixth,
    tenth,
    third,
    twelfth,
    twelfth_data,
)
from clinic.data import Data
from clinic.networks import Network

DATA = (
    data.EARLIER
    | third.DATA
    | fourth.DATA
    | fifth.DATA
    | sixth.DATA
    | seventh.DATA
    | eighth.DATA
    | ninth.DATA
    | tenth.DATA
    | eleventh_data.DATA
    | twelfth_data.DATA
)
NETWORKS = (
    networks.EARLIER
    | third.NETWORKS
    | fourth.NETWORKS
    | fifth.NETWORKS
    | sixth.NETWORKS
    | seventh.NETWORKS
    | eighth.NETWORKS
    | ninth.NETWORKS
    | tenth.NETWORKS
    | eleventh.NETWORKS
    | twelfth.NETWORKS
)


@cache
def data_of(name: str) -> Data:
    """The data set of this name."""
    return DATA[name]()


def network_of(name: str) -> Network:
    """The network of this name."""
    return NETWORKS[name]
