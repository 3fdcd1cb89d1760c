"""External optimizers are classes of other packages, trained as they are: no class has to be changed or known here.

target     finds the class behind a path
request    reads from a constructor what it asks for: parameters, the model, another optimizer, the run's length
tryout      steps the class on a small model, to see how it wants to be called
manner     what came out of that
search     tries one manner after another
assembly   builds the class in a manner, with what it wraps and what works beside it
adapter    steps such an assembly on an Objective
entry      joins them: an entry of the registry for any class
refusals   classes that no single training run can compare
"""

from .entry import External
from .target import load_class

__all__ = ["External", "load_class"]
