"""The commands of the execution layer: `counterfoil infer`, `verify`, `client` and `node`."""
