"""branchmerge fuses fine-tuned branches of a language model into one checkpoint.

```python
import branchmerge as bm

result = bm.fuse("code", "science", "math", method="arcee", out="tiny")
result = bm.merge("recipe.yml", out="merged", threads=8, memory="8GiB")
plan = bm.plan("recipe.yml")
bm.methods()["ties"].parameters
bm.verify("tiny")
```

This is the front door; everything else is private. Importing it does nothing heavy.
"""

from branchmerge.errors import BranchmergeError, CheckpointError, OutputExists, Problem, RecipeError
from branchmerge.merge.engine import VERSION as __version__  # noqa: N811
from branchmerge.merge.functions import fuse, merge, methods, plan, verify
from branchmerge.merge.results import Plan, Progress, Result, Verification
from branchmerge.merge.specs import Method, Parameter

__all__ = [
    "BranchmergeError",
    "CheckpointError",
    "Method",
    "OutputExists",
    "Parameter",
    "Plan",
    "Problem",
    "Progress",
    "RecipeError",
    "Result",
    "Verification",
    "__version__",
    "fuse",
    "merge",
    "methods",
    "plan",
    "verify",
]
