"""Parts of `params`: `types`: values with their limits. `quality`, `report`: sections with a module of their own."""
