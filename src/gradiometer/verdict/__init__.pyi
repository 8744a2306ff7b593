from .diagnosis import Diagnosis as Diagnosis
from .diagnosis import diagnose as diagnose
from .words.say import say as say
from .words.sentences import Words as Words
