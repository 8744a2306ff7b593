from gradiometer_lab.samplers.langevin import SGHMC as SGHMC
from gradiometer_lab.samplers.langevin import SGLD as SGLD
from gradiometer_lab.samplers.langevin import SGNHT as SGNHT
