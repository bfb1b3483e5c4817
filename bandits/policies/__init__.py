"""The policies, one family a file. `bandits.catalog` names them."""
