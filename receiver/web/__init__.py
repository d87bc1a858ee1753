"""The two small web sites of the daemon: the operator's (metrics, health, administration) and the customers'."""
