from .classification import classification as classification
from .classification import cross_entropy as cross_entropy
from .classification import label_found as label_found
from .idx import read_idx as read_idx
from .models import digits_cnn as digits_cnn
from .models import digits_mlp as digits_mlp
from .models import fashion_mnist_cnn as fashion_mnist_cnn
from .models import fashion_mnist_mlp as fashion_mnist_mlp
