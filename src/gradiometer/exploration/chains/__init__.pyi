from gradiometer_lab.chains.mixing import mixing as mixing
from gradiometer_lab.chains.sampling import sample as sample
