"""The merge engine's Python half: what was said becomes a recipe, the recipe a plan, the plan a result."""
