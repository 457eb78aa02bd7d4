"""branchmerge fuses fine-tuned branches of a language model into one checkpoint.

```python
import branchmerge as bm

result = bm.fuse("code", "science", "math", method="arcee", out="tiny")
result = bm.merge("recipe.yml", out="merged", threads=8, memory="8GiB")
plan = bm.plan("recipe.yml")
merged = bm.fuse_tensors([a.state_dict(), b.state_dict()], base=c.state_dict(), method="ties", weight=[0.5, 0.5])
bm.methods()["ties"].parameters
bm.verify("tiny")
bm.push("tiny", "org/tiny")
bm.gradient(0, 0.5, 1)
```

This is the front door; everything else is private. Importing it does nothing heavy.
"""

from branchmerge.errors import BranchmergeError, CheckpointError, OutputExists, Problem, RecipeError
from branchmerge.hub.pushing import Pushed
from branchmerge.merge.engine import VERSION as __version__  # noqa: N811
from branchmerge.merge.functions import fuse, merge, methods, plan, push, verify
from branchmerge.merge.recipe import gradient
from branchmerge.merge.results import Plan, Progress, Result, Verification
from branchmerge.merge.specs import Method, Parameter
from branchmerge.merge.tensors import fuse_tensors

__all__ = [
    "BranchmergeError",
    "CheckpointError",
    "Method",
    "OutputExists",
    "Parameter",
    "Plan",
    "Problem",
    "Progress",
    "Pushed",
    "RecipeError",
    "Result",
    "Verification",
    "__version__",
    "fuse",
    "fuse_tensors",
    "gradient",
    "merge",
    "methods",
    "plan",
    "push",
    "verify",
]
