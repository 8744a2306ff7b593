from .journal import read_journal as read_journal
