"From a Perturb-seq screen to gene programs, their network and what every perturbation does to them."
__version__ = "0.1.0"

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
