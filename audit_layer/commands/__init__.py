"""The commands of the audit layer: `counterfoil audit`, `log`, `tenant`, `token`, `cost` and `db`."""
