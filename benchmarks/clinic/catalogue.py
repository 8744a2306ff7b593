"""The networks and the data of all parts of the clinic, by name."""

from functools import cache

from clinic import data, fifth, fourth, networks, sixth, third
from clinic.data import Data
from clinic.networks import Network


@cache
def data_of(name: str) -> Data:
    """The data set of this name."""
    return (data.EARLIER | third.DATA | fourth.DATA | fifth.DATA | sixth.DATA)[name]()


def network_of(name: str) -> Network:
    """The network of this name."""
    return (networks.EARLIER | third.NETWORKS | fourth.NETWORKS | fifth.NETWORKS | sixth.NETWORKS)[
        name
    ]
