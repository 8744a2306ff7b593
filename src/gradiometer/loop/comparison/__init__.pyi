from .effects import Effect as Effect
from .effects import effects_of as effects_of
from .ends import effects_at_end as effects_at_end
from .racing import Race as Race
from .racing import Stop as Stop
from .racing import race as race
from .rungs import Rung as Rung
from .rungs import rungs_for as rungs_for
