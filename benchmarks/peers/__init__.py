"""The same network behind other servers; each module runs in an environment that has that server alone."""
