"""How data are collected: vendors, landing, pipeline, sinks and the Prefect flows over them."""
