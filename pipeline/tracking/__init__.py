"""Records of runs, and MLflow as their mirror."""
